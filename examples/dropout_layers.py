"""A network learns which channels and weights it can do without; what remains is a smaller model of plain layers.

python examples/dropout_layers.py
"""

import keras
import numpy as np
from rich.console import Console

from tfstruct import Recipe, demo, to_tflite
from tfstruct.layers import HardConcrete, MonteCarloDropout, VariationalDropout, finalize, predict_distribution
from tfstruct.surgery import optimize_inference, shrink

layers = keras.layers


def build(samples: int) -> keras.Model:
    inputs = keras.Input((8, 8, 1), name="digit")
    x = layers.Rescaling(1 / 16)(inputs)
    for n in range(2):
        x = layers.Conv2D(32, 3, padding="same", name=f"conv{n}")(x)
        x = HardConcrete(5e-3, rate=0.2, seed=n, name=f"gate{n}")(x)  # is the channel worth its penalty?
        x = layers.MaxPooling2D()(layers.ReLU()(x))
    x = layers.Flatten()(x)
    # Each weight has a dropout rate of its own: those that come to be noise are zero.
    x = VariationalDropout(layers.Dense(64, activation="relu"), 1 / samples, seed=2, name="hidden")(x)
    x = MonteCarloDropout(0.1, seed=3)(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="classes")(x), name="gated")


def main(epochs: int = 40) -> None:
    keras.utils.set_random_seed(0)
    console = Console(width=120, highlight=False)
    (x, y), (test_x, test_y) = demo.digits()
    model = build(len(x))
    model.compile(keras.optimizers.Adam(5e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)

    for name in ("gate0", "gate1"):
        gates = model.get_layer(name).gates()
        console.print(f"{name}: {np.sum(gates == 0)} of {len(gates)} channels closed")
    console.print(f"hidden: {model.get_layer('hidden').sparsity():.0%} of the weights are noise")

    # Several passes with dropout tell what the network is unsure of.
    found = predict_distribution(model, test_x, passes=5, batch_size=256)
    right = found.mean.argmax(1) == test_y
    spread = found.variance.max(1)
    console.print(f"variance where it is right {spread[right].mean():.4f}, where wrong {spread[~right].mean():.4f}")

    plain = finalize(model)  # Keras's own layers, zeros written into the weights
    smaller = optimize_inference(shrink(plain).model).model
    for name, net in (("trained", plain), ("shrunk", smaller)):
        accuracy = np.mean(net.predict(test_x, verbose=0).argmax(1) == test_y)
        console.print(f"{name}: {net.count_params():,} parameters, test accuracy {accuracy:.1%}")

    result = to_tflite(smaller, Recipe(precision="int8", calibration=x, verification=(test_x, test_y)))
    console.print(f"int8 file: {result.report.size:,} bytes, {result.report.verification.tflite.accuracy:.1%}")


if __name__ == "__main__":
    main()
