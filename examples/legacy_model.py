"""A Keras 2 file and a TFMOT quantization-aware model, as Keras 3 models and an int8 file with the trained ranges.

python examples/legacy_model.py [folder]
"""

import pathlib
import sys

import numpy as np
import tf_keras

from tfstruct import Recipe, legacy, to_tflite
from tfstruct.legacy import tfmot


def keras2_model() -> tf_keras.Model:
    layers = tf_keras.layers
    x = image = layers.Input((8, 8, 1), name="image")
    x = layers.Conv2D(8, 3, padding="same", name="stem")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.ReLU(6.0, name="relu")(x)
    x = layers.DepthwiseConv2D(3, activation="relu", name="depthwise")(x)
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    return tf_keras.Model(image, layers.Dense(10, activation="softmax", name="head")(x), name="net")


def main(folder: str = ".") -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.uniform(0, 1, (64, 8, 8, 1)).astype("float32"), rng.integers(0, 10, 64)

    # A file: Keras 3 itself refuses this DepthwiseConv2D.
    path = pathlib.Path(folder) / "net.h5"
    old = keras2_model()
    old.save(path)
    model = legacy.load(path)
    print(f"largest difference: {np.abs(model.predict(images, verbose=0) - old.predict(images, verbose=0)).max():.1e}")

    # A model that TFMOT trains quantization-aware.
    with tfmot.scope():  # imports TFMOT and leaves `tf.keras` as it is
        import tensorflow_model_optimization as toolkit
    aware = toolkit.quantization.keras.quantize_model(old)
    aware.compile("adam", "sparse_categorical_crossentropy")
    aware.fit(images, labels, epochs=2, verbose=0)
    source = legacy.read(aware)
    print(source.explain())

    recipe = Recipe(precision="int8", ranges=source.ranges, weight_limits=source.weight_limits, verification=images)
    result = to_tflite(source.model, recipe)
    print(result.report)
    result.save(pathlib.Path(folder) / "net.tflite")


if __name__ == "__main__":
    main(*sys.argv[1:])
