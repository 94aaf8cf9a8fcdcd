"""The troubles with training of docs/troubleshooting.md, made on purpose: the symptom, how it shows, and the cure.

python examples/troubles_with_training.py [nan | diverges | vanishing | overfits | slow]
"""

import sys

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tfstruct import augment, demo, initializers
from tfstruct.callbacks import Diagnose, LearningRateFinder
from tfstruct.schedules import OneCycle

(X, Y), TEST = demo.digits()


def accuracy(model) -> str:
    return f"{np.mean(model.predict(TEST[0], verbose=0).argmax(1) == TEST[1]):.1%} right"


def watched(activation, depth, optimizer, data=(X, Y), epochs=4, lsuv=False, first=None) -> str:
    """Trains a network of dense layers: what Diagnose finds, and the accuracy."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    x = layers.Flatten()(first(image) if first else layers.Rescaling(1 / 16)(image))
    for i in range(depth):
        x = layers.Dense(32, activation, name=f"hidden{i}")(x)
    model = keras.Model(image, layers.Dense(10)(x))
    if lsuv:
        initializers.LSUV(model, X[:200])
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    watch = Diagnose(verbose=0)
    given = {"x": data[0], "y": data[1]} if isinstance(data, tuple) else {"x": data}
    model.fit(**given, epochs=epochs, verbose=0, validation_data=TEST, callbacks=[watch])
    found = [f"{one.symptom}{f' at {one.layer}' if one.layer else ''}" for one in watch.report.findings]
    return f"{', '.join(found) or 'nothing found'}; {accuracy(model)}"


def nan():
    for name, function in (("log(x)", keras.ops.log), ("log(1 + x)", keras.ops.log1p)):  # most pixels are 0
        yield f"{name}: {watched('relu', 2, keras.optimizers.SGD(0.1), first=function)}"


def diverges():
    yield f"a rate of 10: {watched('relu', 2, keras.optimizers.SGD(10.0))}"
    yield f"of 0.1, gradients clipped: {watched('relu', 2, keras.optimizers.SGD(0.1, clipnorm=1.0))}"


def vanishing():
    yield f"twenty sigmoids: {watched('sigmoid', 20, keras.optimizers.SGD(0.1))}"
    yield f"twenty ReLUs from LSUV: {watched('relu', 20, keras.optimizers.SGD(0.02), lsuv=True, epochs=8)}"


def overfits():
    rng = np.random.default_rng(0)
    wrong = np.where(rng.random(200) < 0.3, rng.integers(0, 10, 200), Y[:200])  # three labels in ten are drawn by lot
    few, optimizer = (X[:200], wrong), {"learning_rate": 5e-3}
    yield f"200 images: {watched('relu', 3, keras.optimizers.Adam(**optimizer), few, epochs=100)}"
    moved = augment.images("medium", value_range=(0, 16), flip=None, mix=None)
    batches = moved(tf.data.Dataset.from_tensor_slices(few).batch(50))
    yield f"moved, turned, covered: {watched('relu', 3, keras.optimizers.Adam(**optimizer), batches, epochs=100)}"


def slow():
    steps = 3 * -(-len(X) // 32)
    finder, start = LearningRateFinder(lowest=1e-5, highest=10, steps=100), demo.train(X[:64], Y[:64], epochs=1)
    start.compile(keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy")
    weights = start.get_weights()  # as a step or two have left them
    start.fit(X, Y, epochs=3, verbose=0, callbacks=[finder])
    for name, rate in (
        ("0.001", 1e-3),
        (f"one cycle up to {finder.suggestion:.2g}", OneCycle(finder.suggestion, steps)),
    ):
        start.set_weights(weights)
        start.compile(keras.optimizers.SGD(rate, momentum=0.9), "sparse_categorical_crossentropy")
        start.fit(X, Y, epochs=3, verbose=0)
        yield f"three epochs, rate {name}: {accuracy(start)}"


TROUBLES = (nan, diverges, vanishing, overfits, slow)


def main(*names: str) -> None:
    for trouble in TROUBLES:
        if not names or trouble.__name__ in names:
            print(trouble.__name__, *trouble(), sep="\n  ")


if __name__ == "__main__":
    main(*sys.argv[1:])
