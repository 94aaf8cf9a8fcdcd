"""From a file with 4-bit weights back to Keras: the weights looked at, and what is not rounded trained around them.

python examples/dequantize.py
"""

import keras
import numpy as np
from rich.console import Console

from tfstruct import Recipe, demo, to_tflite
from tfstruct.convert import dequantize


def accuracy(model, x, y) -> float:
    outputs = model.predict(x, verbose=0) if isinstance(model, keras.Model) else model.predict(x)
    return float((outputs.argmax(1) == y).mean())


def main(epochs: int = 12) -> None:
    console = Console(width=120, highlight=False)
    (x, y), test = demo.digits()
    model = demo.train(x, y, epochs=epochs)
    file = to_tflite(model, Recipe(precision="int4", calibration=x, rounding="nearest"))
    console.print(f"float: {accuracy(model, *test):.1%}, int4 file: {accuracy(file, *test):.1%} of the test digits")

    # The plain model again, with the file's weights: at most 15 different ones in a channel.
    plain = dequantize(file, model)
    kernel = np.asarray(plain.get_layer("conv3").kernel)
    most = max(len(np.unique(kernel[..., channel])) for channel in range(kernel.shape[-1]))
    console.print(f"dequantized: {accuracy(plain, *test):.1%}; conv3 has at most {most} values in a channel")

    # Batch norms learn to live with these weights, which stay where they are.
    for layer in plain.layers:
        layer.trainable = isinstance(layer, keras.layers.BatchNormalization)
    plain.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    plain.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    same = np.array_equal(plain.get_layer("conv3").kernel, kernel)
    console.print(f"batch norms trained: {accuracy(plain, *test):.1%}; the kernels are what they were: {same}")


if __name__ == "__main__":
    main()
