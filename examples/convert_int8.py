"""A trained Keras model to a verified int8 file, and a look at which layer loses most.

python examples/convert_int8.py [digits.tflite]
"""

import sys

from tfstruct import Recipe, demo, to_tflite
from tfstruct.errors import ConversionError, VerificationError


def main(path: str = "digits.tflite", epochs: int = 12) -> None:
    (x, y), test = demo.digits()
    model = demo.train(x, y, epochs)

    recipe = Recipe(
        precision="int8",
        calibration=x,  # also a path, a tf.data.Dataset, a generator, ...
        calibrator="percentile",
        verification=test,
        require={"accuracy": 0.9, "top1_agreement": 0.97},
    )
    try:
        result = to_tflite(model, recipe)
    except VerificationError as error:
        sys.exit(f"{error} SQNR by layer: {error.model.layer_errors()[:3]}")
    except ConversionError as error:
        sys.exit(f"{error} Layers: {error.layers}")

    print(result.report)
    print("\nWhich layer loses most:")
    for layer in result.layer_errors()[:3]:
        print(f"  {', '.join(layer.layers):<24} SQNR {layer.sqnr_db:5.1f} dB")

    result.save(path)
    predicted = result.predict(test[0][:5]).argmax(axis=-1)
    print(f"\nwrote {path}; the first five test digits are {predicted.tolist()}, labelled {test[1][:5].tolist()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
