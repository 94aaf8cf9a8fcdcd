"""Penalties on a model that is already built and trained: whole channels fade out, and surgery takes them away.

python examples/regularize_built_model.py
"""

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from tfstruct import demo, regularizers
from tfstruct.analyze import importance
from tfstruct.initializers import describe
from tfstruct.surgery import apply, plan_channels, recalibrate_batch_norm

layers = keras.layers


def build() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1), name="digit")
    x = layers.Rescaling(1 / 16)(inputs)
    x = layers.Conv2D(24, 3, padding="same", use_bias=False, name="stem")(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9, name="stem_norm")(x))
    y = layers.Conv2D(48, 3, padding="same", use_bias=False, name="inner")(x)
    y = layers.ReLU()(layers.BatchNormalization(momentum=0.9, name="inner_norm")(y))
    y = layers.Conv2D(24, 1, use_bias=False, name="outer")(y)
    x = layers.ReLU()(layers.Add()([x, layers.BatchNormalization(momentum=0.9, name="outer_norm")(y)]))
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(10, activation="softmax", name="classes")(x), name="digits")
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def spread(model: keras.Model) -> dict[str, np.ndarray]:
    """The scale of each channel, |gamma| of its batch norms, relative to the largest of its group."""
    groups = importance(model, "bn_scale", missing="keep").groups
    return {name: scales / scales.max() for name, scales in groups.items() if name != "classes"}


def main(epochs: int = 10) -> None:
    console = Console(width=110)
    (x, y), (test_x, test_y) = demo.digits()
    console.print(describe(build(), x, y).table())  # nothing vanishes or explodes at the start

    table = Table(title="share of channels whose norm is below a tenth of their group's largest")
    table.add_column("penalty")
    for column in ("weights with it", "stem", "inner", "accuracy", "half the MACs gone", "tuned"):
        table.add_column(column, justify="right")
    penalties = {
        "none": None,
        "GroupLasso over channels": regularizers.GroupLasso(2e-4, by="channel"),
        "BatchNormScale": regularizers.BatchNormScale(2e-3),
    }
    for name, penalty in penalties.items():
        model = build()
        model.fit(x, y, batch_size=64, epochs=epochs // 2, verbose=0)
        # The model has been trained already: Keras has no way to penalize it now.
        paths = regularizers.apply(model, penalty) if penalty else ()
        model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
        regularizers.remove(model)
        small = {group: f"{np.mean(norms < 0.1):.0%}" for group, norms in spread(model).items()}

        criterion = "bn_scale" if name == "BatchNormScale" else "l2"
        smaller = apply(model, plan_channels(model, {"macs": 0.5}, criterion=criterion), compiled=True)
        recalibrate_batch_norm(smaller, x)
        figures = [model.evaluate(test_x, test_y, verbose=0)[1], smaller.evaluate(test_x, test_y, verbose=0)[1]]
        smaller.fit(x, y, batch_size=64, epochs=epochs // 2, verbose=0)
        figures.append(smaller.evaluate(test_x, test_y, verbose=0)[1])
        table.add_row(name, str(len(paths)), small["stem"], small["inner"], *(f"{f:.1%}" for f in figures))
    console.print(table)


if __name__ == "__main__":
    main()
