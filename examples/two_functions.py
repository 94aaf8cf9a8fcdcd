"""An autoencoder in one file: a device encodes, another decodes, and both know the same file.

Two Keras models become the functions (signatures) of one `.tflite` file; weights that both read are stored once.

python examples/two_functions.py [folder]
"""

import pathlib
import sys

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from keras import layers

import tfstruct
from tfstruct import demo


def autoencoder() -> tuple[keras.Model, keras.Model]:
    """Encoder and decoder of digits."""
    image, code = keras.Input((8, 8, 1), name="image"), keras.Input((10,), name="code")
    h = layers.Dense(48, activation="relu", name="in")(layers.Flatten(name="flat")(image))
    encoder = keras.Model(image, layers.Dense(10, name="code")(h), name="encoder")
    h = layers.Dense(48, activation="relu", name="out")(code)
    decoder = keras.Model(code, layers.Reshape((8, 8, 1), name="image")(layers.Dense(64, name="pixels")(h)))
    return encoder, decoder


def main(folder: str = "functions", epochs: int = 30) -> None:
    (x, labels), (test, _) = demo.digits()
    x, test = x / 16, test / 16
    encoder, decoder = autoencoder()
    whole = keras.Model(encoder.input, decoder(encoder.output))
    whole.compile("adam", "mse")
    whole.fit(x, x, epochs=epochs, verbose=0)
    # A third function, which reads the encoder's layers: what digit is it?
    digit = layers.Dense(10, activation="softmax", name="digit")(encoder.output)
    classifier = keras.Model(encoder.input, digit, name="classifier")
    encoder.trainable = False
    classifier.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    classifier.fit(x, labels, epochs=epochs, verbose=0)

    models = {"encode": encoder, "decode": decoder, "classify": classifier}
    data = {"encode": x, "decode": encoder.predict(x, verbose=0), "classify": x}
    file = tfstruct.to_tflite(models, "int8", calibration=data)
    print(file.report)  # each against its model, and what is stored once

    path = pathlib.Path(folder)
    path.mkdir(exist_ok=True)
    file.save(path / "digits.tflite")
    print(tfstruct.convert.describe(path / "digits.tflite").functions)

    again = file.predict("decode", file.predict("encode", test))
    print(f"mean error of a pixel after the way through the code: {np.abs(again - test).mean():.3f} of 1")

    # On a phone: TensorFlow Lite's own interpreter, function by function.
    classify = Interpreter(str(path / "digits.tflite")).get_signature_runner("classify")
    port = file.functions["classify"].inputs[0]
    print("digit:", classify(image=port.encode(test[:1]))["digit"].argmax())

    # A microcontroller runs one function a file.
    part = tfstruct.convert.split_signatures(path / "digits.tflite")["encode"]
    (path / "encode.tflite").write_bytes(part)
    print(f"the encoder alone: {len(part):,} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
