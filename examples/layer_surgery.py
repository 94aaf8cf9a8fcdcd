"""Layers instead of channels: what is exact first, then what is not, then growth.

python examples/layer_surgery.py
"""

import keras
import numpy as np
from rich.console import Console

from tfstruct import demo, surgery

layers = keras.layers


def build() -> keras.Model:
    """A RepVGG-like network: parallel branches with batch norm, dropout, and a wide dense layer."""
    inputs = keras.Input((8, 8, 1), name="digit")
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="stem")(layers.Rescaling(1 / 16)(inputs))
    for block in range(2):
        wide = layers.BatchNormalization(momentum=0.9)(layers.Conv2D(16, 3, padding="same", use_bias=False)(x))
        slim = layers.BatchNormalization(momentum=0.9)(layers.Conv2D(16, 1, use_bias=False)(x))
        x = layers.ReLU(name=f"relu{block}")(layers.Add(name=f"block{block}")([wide, slim, x]))
    x = layers.Dropout(0.2, name="dropout")(layers.Flatten()(layers.MaxPooling2D(name="pool")(x)))
    x = layers.Dense(64, activation="relu", name="wide")(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="classes")(x), name="branches")


def fit(model: keras.Model, x, y, rate: float, epochs: int) -> keras.Model:
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    return model


def main(epochs: int = 10) -> None:
    keras.utils.set_random_seed(0)
    console = Console(width=120)
    (x, y), (test_x, test_y) = demo.digits()
    model = fit(build(), x, y, 2e-3, epochs)

    def say(what: str, net: keras.Model) -> None:
        accuracy = np.mean(net.predict(test_x, verbose=0).argmax(1) == test_y)
        console.print(f"{what}: {net.count_params():,} parameters, test accuracy {accuracy:.1%}", highlight=False)

    say("trained", model)

    # Exact, for inference: dropout goes, batch norms and parallel branches become one convolution a block.
    fast = surgery.optimize_inference(model)
    console.print(fast.table())
    say("optimize_inference", fast.model)

    # Not exact: the wide dense layer as a product of two, keeping 90 % of its energy; then some training.
    slim = surgery.factorize(model, ["wide"], energy=0.9)
    console.print(slim.table())
    say("factorize", slim.model)
    say("factorize, trained on", fit(slim.model, x, y, 5e-4, epochs // 2))

    # The pooling's stride moves to the stem: the blocks work on a quarter of the positions, with the same weights.
    early = surgery.downsample_early(model, "stem")
    console.print(early.table())
    say("downsample_early, trained on", fit(early.model, x, y, 5e-4, epochs // 2))

    # Growth keeps the function: more channels, and a new layer that is the identity at first.
    wider = surgery.widen(model, "stem", 24)
    deeper = surgery.deepen(wider.model, "wide")
    say("widen and deepen", deeper.model)
    console.print(f"largest difference: {deeper.max_difference}", highlight=False)

    # And what of all this would tfstruct do to the network?
    console.print(surgery.analyze_bottlenecks(model, x[:200], y[:200]).table())


if __name__ == "__main__":
    main()
