"""Reads JPEG, PNG and BMP images by TensorFlow's decoders."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tfstruct.errors import DataError, one_line
from tfstruct.samples.rows import MAX_ROW, Inputs, LabelKey, Reader, Row, only_input, unreadable
from tfstruct.samples.spec import TensorSpec

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


def read_images(files: Sequence[tuple[Path, int | None]], source: str, inputs: Inputs, labels: LabelKey) -> Reader:
    """Opens image files, each with its label."""
    spec = only_input(inputs, labels, source)

    def rows() -> Iterator[Row]:
        for path, label in files:
            try:
                if path.stat().st_size > MAX_ROW:
                    raise DataError(f"{path}: expected an image, received over {MAX_ROW} bytes. Remove it.")
                data = path.read_bytes()
            except OSError as error:
                raise unreadable(path, error) from error
            yield Row({spec.name: decode(data, spec, str(path))}, label, str(path))

    return Reader(source, len(files), rows)


def image_kind(data: bytes) -> str | None:
    """The kind of an image by its first bytes."""
    kinds = {b"\xff\xd8\xff": "jpeg", b"\x89PNG\r\n\x1a\n": "png", b"BM": "bmp"}
    return next((kind for magic, kind in kinds.items() if data.startswith(magic)), None)


def decode(data: bytes, spec: TensorSpec, where: str) -> np.ndarray:
    """Decodes an image by its content, whatever its name says, to (height, width, channels)."""
    import tensorflow as tf

    kind = image_kind(data)
    if kind is None:
        raise DataError(f"{where}: expected a JPEG, PNG or BMP image, received other content. Replace or remove it.")
    wanted = (*spec.shape, 1)[2] if len(spec.shape) in (2, 3) else None
    channels = wanted if wanted in (1, 3, 4) else 0
    try:
        if kind == "jpeg":
            # The accurate transform: the default may differ by processor, and so would the ranges.
            return tf.io.decode_jpeg(data, min(channels, 3), dct_method="INTEGER_ACCURATE").numpy()
        if kind == "png":
            return tf.io.decode_png(data, channels).numpy()
        image = tf.io.decode_bmp(data)  # it converts no channels
        if channels == 1 and image.shape[-1] >= 3:
            image = tf.image.rgb_to_grayscale(image[..., :3])
        elif channels == 3:
            image = tf.image.grayscale_to_rgb(image) if image.shape[-1] == 1 else image[..., :3]
        return image.numpy()
    except (tf.errors.OpError, ValueError) as error:
        raise DataError(
            f"{where}: expected a whole {kind.upper()} image, received one that cannot be decoded ({one_line(error)}). "
            "Replace or remove it."
        ) from error
