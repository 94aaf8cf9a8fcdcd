"""A residual network loses its channels while it trains; what is left is cut out and written as int8.

python examples/prune_channels_while_training.py
"""

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from tfstruct import Recipe, demo, to_tflite
from tfstruct.callbacks import PruneChannels
from tfstruct.surgery import shrink

layers = keras.layers


def build() -> keras.Model:
    inputs = keras.Input((8, 8, 1), name="digit")
    x = layers.Rescaling(1 / 16)(inputs)
    x = layers.Conv2D(24, 3, padding="same", activation="relu", name="stem")(x)
    for block in range(2):
        y = layers.Conv2D(32, 3, padding="same", use_bias=False, name=f"block{block}")(x)
        y = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(y))
        x = layers.Add()([x, layers.Conv2D(24, 1, name=f"back{block}")(y)])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="classes")(x), name="digits")


def trained(x, y, epochs: int, *callbacks) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = build()
    steps = epochs * -(-len(x) // 64)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=64, epochs=epochs, callbacks=list(callbacks), verbose=0)
    return model


def main(epochs: int = 12) -> None:
    console = Console(width=120)
    (x, y), (test_x, test_y) = demo.digits()
    whole = trained(x, y, epochs)

    # Half of the multiply-accumulates and 60 % of the parameters may stay; widths stay multiples of 4.
    pruner = PruneChannels({"macs": 0.5, "params": 0.6}, frequency=20, round_to=4)
    model = trained(x, y, epochs, pruner)
    console.print(pruner.report.table())
    smaller = shrink(model)
    console.print(str(smaller), highlight=False)

    table = Table()
    for column in ("", "parameters", "test accuracy, float", "int8", "int8 file"):
        table.add_column(column, justify="left" if not column else "right")
    for name, net in (("whole", whole), ("pruned while training", smaller.model)):
        accuracy = np.mean(net.predict(test_x, verbose=0).argmax(1) == test_y)
        file = to_tflite(net, Recipe(precision="int8", calibration=x))
        rounded = np.mean(file.predict(test_x).argmax(1) == test_y)
        table.add_row(name, f"{net.count_params():,}", f"{accuracy:.1%}", f"{rounded:.1%}", f"{len(file.content):,} B")
    console.print(table)


if __name__ == "__main__":
    main()
