"""From a Keras model to a C array for a microcontroller, checked before training and run on this machine.

pip install 'tfstruct[micro]'
python examples/microcontroller.py [digits.tflite]
"""

import sys

import keras
import numpy as np
from keras import layers

from tfstruct import Recipe, check_target, demo, to_tflite
from tfstruct.convert import micro
from tfstruct.convert.latency import LatencyTable, profile_operators


def sketch(activation: str) -> keras.Model:
    """A network nobody has trained yet."""
    inputs = keras.Input((8, 8, 1), name="digit")
    x = layers.Conv2D(8, 3, activation=activation, name="features")(inputs)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="classes")(x), name="sketch")


def main(path: str = "digits.tflite", epochs: int = 12) -> None:
    # Before training: an activation that the device lacks costs a line here, not a day later.
    print(check_target(sketch("gelu"), "micro").problem())
    print("hard_swish fits:", check_target(sketch("hard_swish"), "micro").fits, "\n")

    (x, y), (test, labels) = demo.digits()
    model = demo.train(x, y, epochs)
    result = to_tflite(model, Recipe(precision="int8", calibration=x, verification=(test, labels)))
    result.save(path)

    # After: the same question of the file, for every target.
    for target in ("mobile", "micro", "ethos-u", "edgetpu"):
        print(check_target(result, target), "\n")

    header, source = micro.write_c_array(result.content, path)
    print(f"wrote {path}, {header}, {source}; operators: {', '.join(micro.resolver_methods(result.content))}")
    if micro.version() is not None:
        run = micro.run(result.content, test[:200])
        found = next(iter(run.outputs.values())).argmax(axis=-1)
        print(f"tflite-micro: {np.mean(found == labels[:200]):.1%} right, {run.arena_bytes:,} bytes of arena")

    # Times of this machine as a table; one measured on your board is read the same way.
    table = LatencyTable(profile_operators(result.content, result.layers))
    print(LatencyTable.from_json(table.to_json()).estimate(result.content, result.layers))


if __name__ == "__main__":
    main(*sys.argv[1:])
