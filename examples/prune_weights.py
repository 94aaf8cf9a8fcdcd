"""Four of five weights go to zero while a network trains: in `fit`, and in a loop of one's own. The file packs better.

python examples/prune_weights.py
"""

import gzip

import keras
import tensorflow as tf
from rich.console import Console

from tfstruct import Recipe, demo, to_tflite
from tfstruct.callbacks import Prune
from tfstruct.schedules import PolynomialRatio

layers = keras.layers
BATCH = 64


def build() -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="digit"),
            layers.Rescaling(1 / 16),
            layers.Conv2D(32, 3, padding="same", activation="relu", name="conv1"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, padding="same", activation="relu", name="conv2"),
            layers.Flatten(),
            layers.Dense(64, activation="relu", name="features"),
            layers.Dense(10, name="classes"),
        ],
        name="digits",
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    return model


def pruner(steps: int) -> Prune:
    """From nothing at the first quarter of training to four of five at three quarters."""
    schedule = PolynomialRatio(0.0, 0.8, begin=steps // 4, end=3 * steps // 4)
    return Prune(schedule, frequency=10, layers=["conv*", "features"])


def by_hand(model: keras.Model, x, y, epochs: int):
    """The same training in a plain loop. Returns the report."""
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=0).batch(BATCH)
    prune = pruner(epochs * len(dataset)).attach(model)  # before the training step is traced
    model.optimizer.build(model.trainable_variables)

    @tf.function
    def train_step(inputs, labels):
        with tf.GradientTape() as tape:
            loss = model.loss(labels, model(inputs, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    for _ in range(epochs):
        for inputs, labels in dataset:
            train_step(inputs, labels)
            prune.step()
    return prune.finish()


def main(epochs: int = 8) -> None:
    console = Console(width=120, highlight=False)
    (x, y), (test_x, test_y) = demo.digits()
    steps = epochs * -(-len(x) // BATCH)

    dense = build()
    dense.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0)
    fitted, prune = build(), pruner(steps)
    fitted.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=[prune])
    console.print(prune.report.table())
    looped = build()
    report = by_hand(looped, x, y, epochs)
    console.print(f"by hand: {report.zeros:,} of {report.weights:,} weights are zero")

    for name, model in (("dense", dense), ("pruned in fit", fitted), ("pruned by hand", looped)):
        file = to_tflite(model, Recipe(precision="int8", calibration=x)).content
        _, accuracy = model.evaluate(test_x, test_y, verbose=0)
        size, packed = len(file), len(gzip.compress(file, mtime=0))
        console.print(f"{name}: test accuracy {accuracy:.1%}, int8 file {size:,} bytes, {packed:,} packed by gzip")


if __name__ == "__main__":
    main()
