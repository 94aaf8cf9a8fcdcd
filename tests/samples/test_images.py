"""Images are decoded by their content, with the classes of their folders."""

import numpy as np
import pytest
import tensorflow as tf
from sample_cases import IMAGE, PAIR, PIXELS, labels, refuse, values

from tfstruct.errors import DataError
from tfstruct.samples import TensorSpec, images, open_samples


def bmp(pixels: np.ndarray) -> bytes:
    """An uncompressed 24-bit BMP, bottom row first, rows padded to four bytes."""
    height, width, _ = pixels.shape
    rows = [row[:, ::-1].tobytes().ljust((width * 3 + 3) // 4 * 4, b"\0") for row in pixels[::-1]]
    body = b"".join(rows)
    ints = [54 + len(body), 0, 54, 40, width, height]
    head = b"BM" + b"".join(i.to_bytes(4, "little") for i in ints)
    return head + (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(24) + body


def test_image_folder(tmp_path):
    kinds = {"dog/a.png": tf.io.encode_png(PIXELS).numpy(), "cat/b.BMP": bmp(PIXELS), "cat/sub/c.png": None}
    kinds["cat/sub/c.png"] = tf.io.encode_jpeg(PIXELS, quality=100).numpy()  # the content counts
    for name, content in kinds.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "cat/notes.txt").write_text("x")
    samples = open_samples(tmp_path, [IMAGE])
    got = list(samples)
    assert samples.count == 3 and labels(samples) == [0, 0, 1]
    np.testing.assert_array_equal(got[0].inputs["image_in"], PIXELS)
    np.testing.assert_array_equal(got[2].inputs["image_in"], PIXELS)
    jpeg = tf.io.decode_jpeg(kinds["cat/sub/c.png"], 3, dct_method="INTEGER_ACCURATE").numpy()
    np.testing.assert_array_equal(got[1].inputs["image_in"], jpeg)
    refuse("received 1 labels for 3", tmp_path, [IMAGE], labels=[0])
    (tmp_path / "loose.png").write_bytes(kinds["dog/a.png"])
    refuse("received loose images and images in sub-folders", tmp_path, [IMAGE])
    loose = open_samples(tmp_path / "loose.png", [IMAGE])
    assert loose.count == 1 and labels(loose) == [None]
    assert len(list(open_samples(str(tmp_path / "*" / "*.[pB]*"), [IMAGE]))) == 2


def test_image_channels(tmp_path):
    spec = TensorSpec("g", (4, 5, 1), "uint8")
    (tmp_path / "a.png").write_bytes(tf.io.encode_png(PIXELS[..., :1]).numpy())
    np.testing.assert_array_equal(values(open_samples(tmp_path, [spec]))[0], PIXELS[..., :1])
    rgb = values(open_samples(tmp_path, [IMAGE]))[0]
    np.testing.assert_array_equal(rgb, np.repeat(PIXELS[..., :1], 3, axis=-1))
    flat = TensorSpec("g", (4, 5), "uint8")
    np.testing.assert_array_equal(values(open_samples(tmp_path, [flat]))[0], PIXELS[..., 0])
    (tmp_path / "a.png").write_bytes(bmp(PIXELS))
    grey = values(open_samples(tmp_path, [spec]))[0]
    np.testing.assert_array_equal(grey, tf.image.rgb_to_grayscale(PIXELS).numpy())


def test_image_errors(tmp_path, monkeypatch):
    refuse("expected images .* in the folder, found none", tmp_path, [IMAGE])
    path = tmp_path / "bad.jpg"
    jpeg = tf.io.encode_jpeg(PIXELS).numpy()
    for content, match in (
        (b"random bytes", "expected a JPEG, PNG or BMP image, received other content"),
        (jpeg[: len(jpeg) // 2], "expected a whole JPEG image"),
        (tf.io.encode_png(PIXELS).numpy()[:60], "expected a whole PNG image"),
        (b"BM123", "expected a whole BMP image"),
        (b"", "expected a JPEG, PNG or BMP image"),
    ):
        path.write_bytes(content)
        refuse(f"bad.jpg: {match}", tmp_path, [IMAGE])
    refuse("neither a key", tmp_path, [IMAGE], labels="label")
    refuse("expected data for the inputs 'a', 'b'", tmp_path, PAIR)
    monkeypatch.setattr(images, "MAX_ROW", -1)
    refuse("expected an image, received over", tmp_path, [IMAGE])
    monkeypatch.undo()
    found = open_samples(tmp_path, [IMAGE])
    path.unlink()
    with pytest.raises(DataError, match=r"bad.jpg: expected a readable file, received: .*No such file"):
        list(found)
