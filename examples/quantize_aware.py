"""Quantization-aware training of a digits network: the file computes what was trained.

python examples/quantize_aware.py
"""

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from tfstruct import Recipe, demo, to_tflite
from tfstruct.callbacks import QuantizeAware
from tfstruct.quantize import Scheme

layers = keras.layers


def build() -> keras.Model:
    inputs = keras.Input((8, 8, 1), name="digit")
    x = layers.Rescaling(1 / 16)(inputs)
    x = layers.Conv2D(12, 3, padding="same", use_bias=False, name="stem")(x)
    x = layers.ReLU(name="stem_relu")(layers.BatchNormalization()(x))
    y = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    y = layers.ReLU()(layers.BatchNormalization()(y))
    x = layers.Add(name="join")([x, layers.Conv2D(12, 1, name="project")(y)])
    x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="classes")(x), name="digits")


def fit(model: keras.Model, x, y, rate: float, epochs: int, callbacks=()) -> None:
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0, callbacks=list(callbacks))


def main(epochs: int = 12) -> None:
    keras.utils.set_random_seed(0)
    console = Console(width=120, highlight=False)
    (x, y), (test_x, test_y) = demo.digits()
    trained = build()
    fit(trained, x, y, 3e-3, epochs)

    table = Table(title="digits, test accuracy")
    for column in ("weights", "quantized afterwards", "trained quantized: twin", "its file", "equal classes"):
        table.add_column(column, justify="right")
    for scheme in ("int8", "int4"):
        model = keras.models.clone_model(trained)
        model.set_weights(trained.get_weights())
        plain = to_tflite(model, Recipe(precision=scheme, calibration=x[:200], rounding="nearest"))
        # The same call as for any training; the model is plain Keras again afterwards.
        aware = QuantizeAware(Scheme(scheme, momentum=0.95))
        fit(model, x, y, 1e-3, max(epochs // 2, 1), [aware])
        file = to_tflite(aware.twin)
        classes = [np.argmax(out, axis=1) for out in (aware.twin.predict(test_x, verbose=0), file.predict(test_x))]
        before = np.mean(np.argmax(plain.predict(test_x), axis=1) == test_y)
        table.add_row(
            scheme, f"{before:.1%}", *(f"{np.mean(c == test_y):.1%}" for c in classes),
            f"{np.mean(classes[0] == classes[1]):.1%}",
        )  # fmt: skip
    console.print(aware.report.table())
    console.print(table)


if __name__ == "__main__":
    main()
