"""Draws the pictures of docs/concepts.md by the library itself: `python tools/concept_pictures.py [FOLDER]`."""

import pathlib
import sys

import keras
from keras import layers

import tfstruct
from tfstruct import demo, quantize
from tfstruct.callbacks import Prune
from tfstruct.compression import Task
from tfstruct.compression.alternatives.damage import measure_damages
from tfstruct.compression.alternatives.front import Front, front
from tfstruct.compression.alternatives.measured import tables_of
from tfstruct.compression.alternatives.offered import conflicts_of, parts_of
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


def least_damage(model: keras.Model, train, validation) -> Front:
    """What `compress` knows before it trains: the best choice of measured alternatives for every size of the file."""
    with Task(model, train, validation, "tflite_bytes=50%") as task:
        parts = parts_of(task)
        damages = measure_damages(task, parts)
        return front(
            parts, tables_of(task, parts), damages.parts, pairs=damages.pairs, conflicts=conflicts_of(parts),
            excluded=damages.failed,
        )  # fmt: skip


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
    quantize.sensitivity(model, x[:200]).plot(place / "twin.png")
    train, validation = (x[:1000], y[:1000]), (x[1000:], y[1000:])
    model = demo.train(*train)
    least_damage(model, train, validation).plot(place / "solver.png")
    made = tfstruct.compress(model, train, validation, "tflite_bytes=60%", epochs=6, learning_rate=3e-3, verbose=0)
    made.report.plot(place / "budgets.png", name="front")
    return sorted(place.iterdir())


if __name__ == "__main__":
    print(*main(*sys.argv[1:2]), sep="\n")
