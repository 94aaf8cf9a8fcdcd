"""Someone who prunes a residual network: explain, plan, prune while training, shrink, plots.

By docs/jobs/look-inside.md and docs/jobs/prune.md.
"""

import pathlib
import sys

import keras
import numpy as np
from keras import layers

import tfstruct
from tfstruct import demo
from tfstruct.callbacks import PruneChannels


def resnet() -> keras.Model:
    """Two residual blocks, one of them with a projection."""

    def block(x, filters, strides, name):
        y = layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False, name=f"{name}_conv1")(x)
        y = layers.BatchNormalization(momentum=0.9, name=f"{name}_bn1")(y)
        y = layers.ReLU(name=f"{name}_relu")(y)
        y = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_conv2")(y)
        y = layers.BatchNormalization(momentum=0.9, name=f"{name}_bn2")(y)
        if strides > 1:
            x = layers.Conv2D(filters, 1, strides=strides, use_bias=False, name=f"{name}_project")(x)
        return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([x, y]))

    image = keras.Input((8, 8, 1), name="image")
    x = layers.Rescaling(1 / 16, name="scale")(image)
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="stem")(x)
    x = block(block(x, 16, 1, "same"), 32, 2, "down")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(10, activation="softmax", name="classes")(x), name="resnet")


def main(folder: str = ".", epochs: int = 12) -> dict[str, float]:
    """The job; returns its figures."""
    place = pathlib.Path(folder)
    (x, y), test = demo.digits()
    keras.utils.set_random_seed(0)
    model = resnet()
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, epochs=epochs, verbose=0)
    figures = {"accuracy": model.evaluate(*test, verbose=0)[1]}

    groups = tfstruct.explain(model)
    print(groups)
    groups.plot(place / "groups.svg")
    print(tfstruct.profile(model))
    sensitivity = tfstruct.analyze.sensitivity(model, x[:200], y[:200], ratios=(0.25, 0.5))
    sensitivity.plot(place / "sensitivity.png")

    # At once, for comparison: the plan is data, and the model without training afterwards the thing to beat.
    plan = tfstruct.plan_channels(model, "macs=50%", criterion="l2")
    print(plan)
    plan.save(place / "plan.json")
    figures["at once"] = tfstruct.apply(model, plan).evaluate(*test, verbose=0)[1]

    pruner = PruneChannels("macs=50%")
    model.fit(x, y, epochs=epochs, verbose=0, callbacks=[pruner])
    print(pruner.report)
    pruner.report.plot(place / "pruning.png")
    pruner.report.save(place / "pruning.html")

    shrunk = tfstruct.shrink(model)
    print(shrunk)
    smaller = shrunk.model
    smaller.save(place / "smaller.keras")
    again = keras.models.load_model(place / "smaller.keras")
    x_test = test[0]
    figures["while training"] = again.evaluate(*test, verbose=0)[1]
    figures["largest difference"] = float(
        np.abs(again.predict(x_test, verbose=0) - model.predict(x_test, verbose=0)).max()
    )
    figures["share of MACs"] = tfstruct.profile(again).macs / tfstruct.profile(model).macs
    return figures


if __name__ == "__main__":
    for what, figure in main(*sys.argv[1:2]).items():
        print(f"{what}: {figure:.4g}")
