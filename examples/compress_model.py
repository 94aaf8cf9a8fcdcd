"""A trained network and a budget: one call to the file that ships, with what was done to each layer and why.

python examples/compress_model.py [FOLDER]

With a folder every stage is kept there: killed and started again, it goes on where it was, to the same result.
"""

import sys

import keras
from rich.console import Console

from tfstruct import Budget, compress, demo
from tfstruct.errors import BudgetError

layers = keras.layers


def build() -> keras.Model:
    inputs = keras.Input((8, 8, 1), name="digit")
    x = layers.Rescaling(1 / 16)(inputs)
    x = layers.Conv2D(24, 3, padding="same", activation="relu", name="stem")(x)
    for block in range(2):
        y = layers.Conv2D(32, 3, padding="same", use_bias=False, name=f"block{block}")(x)
        y = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(y))
        x = layers.Add(name=f"join{block}")([x, layers.Conv2D(24, 1, name=f"back{block}")(y)])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="classes")(x), name="digits")


def trained(x, y, epochs: int) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = build()
    rate = keras.optimizers.schedules.CosineDecay(3e-3, epochs * -(-len(x) // 64))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    return model


def main(folder: str | None = None, epochs: int = 12) -> None:
    console = Console(width=120, highlight=False)
    (x, y), test = demo.digits()
    train, validation = (x[:1000], y[:1000]), (x[1000:], y[1000:])
    model = trained(*train, epochs)

    budget = Budget(accuracy_drop=0.03, macs=0.5, tflite_bytes=0.6)
    stages = []

    def progress(told):
        if told.stage not in stages:
            stages.append(told.stage)
            console.print(f"... {told}")

    # Every choice can be fixed: strategy=[steps.PruneChannels(exclude=("stem",)), steps.Quantize(precision="int8")].
    try:
        made = compress(
            model, train, validation, budget, test=test, epochs=epochs, learning_rate=3e-3, workdir=folder,
            progress=progress,
        )  # fmt: skip
    except BudgetError as error:
        console.print(str(error))
        made = error.best
    for decision in made.report.decisions:
        console.print(f"{'does' if decision.taken else 'does not'} {decision.kind}: {decision.reason}")
    console.print(made.report.table())
    for layer, (before, after) in made.report.widths.items():
        console.print(f"  {layer:<10}{before:>4} -> {after} channels")


if __name__ == "__main__":
    main(*sys.argv[1:2])
