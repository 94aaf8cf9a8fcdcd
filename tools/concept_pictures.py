"""Draws the pictures of docs/concepts.md by the library itself: `python tools/concept_pictures.py [FOLDER]`."""

import pathlib
import sys

import keras
from keras import layers

import tfstruct
from tfstruct import demo, quantize
from tfstruct.callbacks import Prune
from tfstruct.schedules import PolynomialRatio

DOCS = pathlib.Path(__file__).parents[1] / "docs" / "pictures"


def residual() -> keras.Model:
    """One residual block: three groups, one of them through the addition."""
    x = image = keras.Input((8, 8, 1), name="image")
    x = shortcut = layers.Conv2D(16, 3, padding="same", activation="relu", name="stem")(x)
    x = layers.Conv2D(24, 3, padding="same", activation="relu", name="wide")(x)
    x = layers.Conv2D(16, 3, padding="same", name="back")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(layers.Add(name="add")([x, shortcut]))
    return keras.Model(image, layers.Dense(10, activation="softmax", name="classes")(x), name="residual")


def main(folder: str | pathlib.Path = DOCS) -> list[pathlib.Path]:
    """The files that were written."""
    place = pathlib.Path(folder)
    place.mkdir(exist_ok=True)
    keras.utils.set_random_seed(0)
    (x, y), _ = demo.digits()
    model = residual()
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    tfstruct.explain(model).plot(place / "groups.png")
    prune = Prune(PolynomialRatio(0.0, 0.8, begin=20, end=90), frequency=10)
    model.fit(x, y, epochs=3, verbose=0, callbacks=[prune])
    prune.report.plot(place / "masks.png")
    quantize.calibrate(model, x[:200]).report.plot(place / "ranges.png")
    return sorted(place.iterdir())


if __name__ == "__main__":
    print(*main(*sys.argv[1:2]), sep="\n")
