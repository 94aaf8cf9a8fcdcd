"""A file as the engineer of a camera wants it: raw pixels in, labels inside, vectors that check the board.

python examples/device_file.py [folder]
"""

import pathlib
import sys

import keras
import numpy as np

from tfstruct import Recipe, check_target, demo, to_tflite
from tfstruct.convert import Metadata, describe, read_metadata, test_vectors


def main(folder: str = "device", epochs: int = 12) -> None:
    (x, y), (test, labels) = demo.digits()
    trained = demo.train(x, y, epochs)

    # The camera gives bytes; the network was trained on 0 to 16.
    camera = keras.Input((8, 8, 1), name="camera")
    h = keras.layers.Rescaling(16 / 255, name="to_training_scale")(camera)
    model = keras.Model(camera, {"digit": trained(h)})
    pixels, looked_at = (np.round(images * (255 / 16)).astype("float32") for images in (x, test))

    recipe = Recipe("int8", calibration=pixels, verification=(looked_at, labels), input_type="uint8")
    result = to_tflite(model, recipe)
    for port in result.inputs:
        print(f"in:  {port.name}: {port.to_stored}")
    for port in result.outputs:
        print(f"out: {port.name}: {port.to_real}")
    print("fits the Edge TPU:", check_target(result, "edgetpu").fits)

    about = Metadata("digits", author="me", license="MIT", outputs={"digit": {"labels": [str(n) for n in range(10)]}})
    result = result.with_metadata(about)
    path = pathlib.Path(folder)
    path.mkdir(exist_ok=True)
    result.save(path / "digits.tflite")
    result.report.save(path / "README.md")
    print("labels in the file:", read_metadata(path / "digits.tflite").labels["digit"])
    print(describe(path / "digits.tflite"))

    # Bytes in and bytes out, for a test on the board: main.cc says which differ.
    vectors = test_vectors(result, looked_at, count=4)
    written = vectors.save(path / "vectors")
    print(f"vectors by {vectors.runtime}: {', '.join(file.name for file in written)}")

    # The same from the float file alone, should the Keras model be lost.
    to_tflite(model, "float32").save(path / "float.tflite")
    again = to_tflite(path / "float.tflite", recipe)
    for one, who in ((result, "the Keras model"), (again, "the float file")):
        print(f"{one.report.verification.tflite.accuracy:.1%} right, made from {who}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
