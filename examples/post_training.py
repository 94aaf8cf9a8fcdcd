"""A trained digits network quantized with 200 images and no labels, in several ways.

python examples/post_training.py
"""

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from tfstruct import demo, surgery, to_tflite
from tfstruct.quantize import adaround, blockwise, calibrate, correct_bias, equalize, mixed_precision, sensitivity

layers = keras.layers


def build() -> keras.Model:
    def conv(x, width: int, name: str, relu: bool = True):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False, name=name)(x)
        x = layers.BatchNormalization(name=f"{name}_norm")(x)
        return layers.ReLU(name=f"{name}_relu")(x) if relu else x

    inputs = keras.Input((8, 8, 1), name="digit")
    x = conv(layers.Rescaling(1 / 16)(inputs), 12, "stem")
    y = conv(x, 12, "block", relu=False)
    x = layers.ReLU(name="join_relu")(layers.Add(name="join")([x, y]))
    x = conv(layers.MaxPooling2D(2)(x), 24, "wide")
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="classes")(x), name="digits")


def main(epochs: int = 15, steps: int = 200) -> None:
    keras.utils.set_random_seed(0)
    console = Console(width=120, highlight=False)
    (x, y), (test_x, test_y) = demo.digits()
    model = build()
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    surgery.recalibrate_batch_norm(model, x)  # moving averages of so few steps are behind
    images = x[:200]

    def accuracy(made: keras.Model) -> float:
        return float(np.mean(np.argmax(made(test_x), axis=1) == test_y))

    # Each function takes a model and returns a new one, so they compose; a twin computes what its file will compute.
    folded = surgery.fold_batch_norm(model).model
    table = Table(title=f"digits, float {accuracy(model):.1%}: test accuracy with int4 weights")
    table.add_column("way")
    table.add_column("accuracy", justify="right")
    ways = {
        "calibrate": lambda: calibrate(model, images, "int4"),
        "calibrate(correct_bias(equalize(fold)))": lambda: calibrate(
            correct_bias(equalize(folded), images, "int4"), images, "int4"
        ),
        "adaround": lambda: adaround(model, images, "int4", steps=steps),
        "blockwise": lambda: blockwise(model, images, "int4", steps=steps),
    }
    for name, way in ways.items():
        table.add_row(name, f"{accuracy(way()):.1%}")
    console.print(table)
    equalize(folded, report=lambda done: console.print(done.table()))

    # Where four bits hurt, and the best choice of layers for 85 % of the int8 file's bytes.
    lost = sensitivity(model, (x[:500], y[:500]), ("int8", "int4"))
    console.print(lost.table())
    scheme = mixed_precision(model, images, {"tflite_bytes": 0.85}, known=lost)
    mixed = correct_bias(calibrate(model, images, scheme), images)
    file = to_tflite(mixed)
    equal = np.mean(np.argmax(file.predict(test_x), axis=1) == np.argmax(mixed(test_x), axis=1))
    console.print(f"mixed: {scheme.layers}, {len(file.content):,} bytes, test accuracy {accuracy(mixed):.1%}")
    console.print(f"the file gives the same class for {equal:.1%} of the images")


if __name__ == "__main__":
    main()
