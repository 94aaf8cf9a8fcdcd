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
PENALTIES = {
    "none": None,
    "GroupLasso over channels": regularizers.GroupLasso(2e-3, by="channel"),
    "BatchNormScale": regularizers.BatchNormScale(1e-2),
}


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
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="classes")(x), name="digits")


def fit(model: keras.Model, x, y, epochs: int) -> None:
    rate = keras.optimizers.schedules.CosineDecay(1e-2, epochs * -(-len(x) // 64))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)


def spread(model: keras.Model) -> dict[str, np.ndarray]:
    """The scale of each channel, |gamma| of its batch norms, relative to the largest of its group."""
    groups = importance(model, "bn_scale", missing="keep").groups
    return {name: scales / scales.max() for name, scales in groups.items() if name != "classes"}


def main(epochs: int = 8) -> None:
    console = Console(width=110)
    (x, y), (test_x, test_y) = demo.digits()
    # Does anything vanish or explode at the start?
    console.print(describe(build(), x, y, loss="sparse_categorical_crossentropy").table())

    table = Table(title="share of channels whose scale is below a tenth of their group's largest")
    table.add_column("penalty")
    for column in ("weights with it", "stem", "inner", "accuracy", "half the MACs gone", "tuned"):
        table.add_column(column, justify="right")
    for name, penalty in PENALTIES.items():
        model = build()
        fit(model, x, y, max(epochs // 2, 1))
        # The model has been trained already: Keras has no way to penalize it now.
        paths = regularizers.apply(model, penalty) if penalty else ()
        fit(model, x, y, epochs)
        regularizers.remove(model)
        faded = {group: f"{np.mean(scales < 0.1):.0%}" for group, scales in spread(model).items()}

        smaller = apply(model, plan_channels(model, {"macs": 0.5}, criterion="bn_scale"), compiled=True)
        recalibrate_batch_norm(smaller, x)
        figures = [net.evaluate(test_x, test_y, verbose=0)[1] for net in (model, smaller)]
        fit(smaller, x, y, max(epochs // 2, 1))
        figures.append(smaller.evaluate(test_x, test_y, verbose=0)[1])
        table.add_row(name, str(len(paths)), faded["stem"], faded["inner"], *(f"{f:.1%}" for f in figures))
    console.print(table)


if __name__ == "__main__":
    main()
