"""Twelve public architectures against all devices, for docs/jobs/devices.md: `python tools/device_table.py [NAME ...]`.

Each is built with random weights, its batch norms on random data, converted to int8 with random ranges, and asked of
every judge that is installed here (`pip install 'tfstruct[micro]' openvino==2026.3.1`). Images are smaller than the
published ones where that changes no operator. The tables go between the lines `<!-- devices -->` and
`<!-- end of devices -->`; with NAMEs only these are built, and printed. Ten minutes on two cores.
"""

import pathlib
import sys
import time
from collections.abc import Callable

import keras
import numpy as np
from networks import _blocks

from tfstruct import check_target
from tfstruct.convert import TARGETS, TargetTable, boards
from tfstruct.surgery import recalibrate_batch_norm

layers = keras.layers
PAGE = pathlib.Path(__file__).parents[1] / "docs" / "jobs" / "devices.md"
BEGIN, END = "<!-- devices -->\n", "<!-- end of devices -->"


def _application(name: str, size: int = 96) -> Callable[[], keras.Model]:
    return lambda: getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=10)


def _normed(x, layer, activation: str = "relu"):
    return layers.Activation(activation)(layers.BatchNormalization()(layer(x)))


def ds_cnn() -> keras.Model:
    """MLPerf Tiny's keyword spotter: a convolution and four depthwise separable ones on 49 x 10 features."""
    inputs = keras.Input((49, 10, 1))
    x = _normed(inputs, layers.Conv2D(64, (10, 4), strides=2, padding="same"))
    for _ in range(4):
        x = _normed(x, layers.DepthwiseConv2D(3, padding="same"))
        x = _normed(x, layers.Conv2D(64, 1))
    x = layers.AveragePooling2D(x.shape[1:3])(layers.Dropout(0.4)(x))
    return keras.Model(inputs, layers.Dense(12, activation="softmax")(layers.Flatten()(x)))


def resnet8() -> keras.Model:
    """MLPerf Tiny's image classifier on 32 x 32 images."""
    inputs = keras.Input((32, 32, 3))
    x = _normed(inputs, layers.Conv2D(16, 3, padding="same"))
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        y = _normed(x, layers.Conv2D(width, 3, strides=stride, padding="same"))
        y = layers.BatchNormalization()(layers.Conv2D(width, 3, padding="same")(y))
        x = x if stride == 1 else layers.Conv2D(width, 1, strides=stride)(x)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Flatten()(layers.AveragePooling2D(x.shape[1:3])(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def autoencoder() -> keras.Model:
    """MLPerf Tiny's anomaly detector: ten dense layers on 640 features."""
    x = inputs = keras.Input((640,))
    for width in (128, 128, 128, 128, 8, 128, 128, 128, 128):
        x = _normed(x, layers.Dense(width))
    return keras.Model(inputs, layers.Dense(640)(x))


def mobilenet() -> keras.Model:
    """MLPerf Tiny's person detector: MobileNet of a quarter of the width on 96 x 96 images."""
    return keras.applications.MobileNet((96, 96, 3), alpha=0.25, weights=None, classes=2)


def unet() -> keras.Model:
    """U-Net on 64 x 64 images, a quarter of the published width."""
    x = inputs = keras.Input((64, 64, 3))
    kept = []
    for width in (16, 32, 64, 128):
        for _ in range(2):
            x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
        kept.append(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Conv2D(256, 3, padding="same", activation="relu")(x)
    for width, skip in zip((128, 64, 32, 16), reversed(kept), strict=True):
        x = layers.Conv2DTranspose(width, 2, strides=2)(x)
        x = layers.Concatenate()([x, skip])
        x = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
    return keras.Model(inputs, layers.Conv2D(2, 1, activation="softmax")(x))


def vit() -> keras.Model:
    """Vision transformer of the size Ti/16: twelve blocks, 192 wide, on 96 x 96 images."""
    inputs = keras.Input((96, 96, 3))
    x = layers.Reshape((36, 192))(layers.Conv2D(192, 16, 16)(inputs))
    return keras.Model(inputs, layers.Dense(10)(_blocks(x, 12, 192)))


MODELS: dict[str, Callable[[], keras.Model]] = {
    "DS-CNN (MLPerf Tiny)": ds_cnn,
    "ResNet-8 (MLPerf Tiny)": resnet8,
    "autoencoder (MLPerf Tiny)": autoencoder,
    "MobileNetV1 0.25 (MLPerf Tiny)": mobilenet,
    "MobileNetV2": _application("MobileNetV2"),
    "MobileNetV3 Small": _application("MobileNetV3Small"),
    "EfficientNetB0": _application("EfficientNetB0"),
    "ResNet50": _application("ResNet50"),
    "DenseNet121": _application("DenseNet121"),
    "ConvNeXt Tiny": _application("ConvNeXtTiny"),
    "U-Net": unet,
    "ViT-Ti/16": vit,
}


def _built(name: str) -> keras.Model:
    """With statistics in its batch norms: without, what comes out of forty untrained layers is next to nothing."""
    model = MODELS[name]()
    x = np.random.default_rng(0).normal(size=(8, *model.input_shape[1:])).astype("float32")
    if any(isinstance(layer, layers.BatchNormalization) for layer in model.layers):
        recalibrate_batch_norm(model, x)
    return model


def _cell(table: TargetTable, target: str) -> str:
    """`yes`, how many operators fit and which do not, or `?` with how many are known."""
    report = table[target]
    if report.fits:
        return "yes"
    count, outside = len(report.rows), list(dict.fromkeys(row.operator for row in report.outside))
    if not outside:
        return "?"
    fitting = sum(row.fits is True for row in report.rows)
    more = f" +{len(outside) - 2}" if len(outside) > 2 else ""
    return f"{fitting} of {count}: not {', '.join(outside[:2])}{more}"


def _board(table: TargetTable, target: str) -> str:
    report = table[target]
    full = [one.name for one in report.memory if one.fits is False]
    if report.fits:
        return "yes" if report.memory[1].name == "RAM" else "in PSRAM"
    return f"NO: {', '.join([*full, *(['kernels'] if report.outside else [])])}" if report.fits is False else "?"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main(names: list[str]) -> None:
    tables: dict[str, TargetTable] = {}
    for name in names or MODELS:
        keras.utils.set_random_seed(0)
        start = time.perf_counter()
        tables[name] = check_target(_built(name), "all")
        print(f"{name}: {time.perf_counter() - start:.0f} s, {tables[name].problem()}", file=sys.stderr)
    rows = [
        [name, str(len(one.reports[0].rows)), *(_cell(one, target) for target in TARGETS)]
        for name, one in tables.items()
    ]
    text = _table(["", "operators", *(f"`{name}`" for name in TARGETS)], rows)
    own = [board.name for board in boards()]
    on_boards = []
    for name, one in tables.items():
        flash, ram = one[own[0]].memory
        sizes = [f"{flash.most:,}", "?" if ram.most is None else f"{ram.most:,}"]
        on_boards.append([name, *sizes, *(_board(one, board) for board in own)])
    text += "\n" + _table(["", "bytes", "arena", *(f"`{board}`" for board in own)], on_boards)
    first = next(iter(tables.values()))
    text += "\nJudged by:\n\n" + "".join(f"- `{name}`: {first[name].judge}\n" for name in TARGETS) + "\n"
    if names:
        print(text)
        return
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}{text}{END}{rest.split(END, 1)[1]}")


if __name__ == "__main__":
    main(sys.argv[1:])
