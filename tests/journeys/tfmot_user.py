"""Someone whose model was pruned by TFMOT on Keras 2: from the wrapped `.h5` to a Keras 3 model and a file, both pruned
and quantized, by docs/jobs/old-models.md and docs/coming-from/tfmot.md."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np

import tfstruct
from tfstruct import demo, legacy
from tfstruct.callbacks import Prune, QuantizeAware


def make(folder: str) -> None:
    """What TFMOT wrote some years ago, in a process of Keras 2: `wrapped.h5` and its outputs."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tensorflow_model_optimization as tfmot
    import tf_keras
    from tf_keras import layers

    (x, y), _ = demo.digits()
    x, y = x[:1000], y[:1000]
    tf_keras.utils.set_random_seed(0)
    h = image = layers.Input((8, 8, 1), name="image")
    h = layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(h)
    h = layers.BatchNormalization(momentum=0.9, name="stem_bn")(h)
    h = shortcut = layers.ReLU(6.0, name="stem_relu")(h)
    h = layers.DepthwiseConv2D(3, padding="same", activation="relu", name="depthwise")(h)
    h = layers.Conv2D(16, 1, name="pointwise")(h)
    h = layers.Add(name="add")([h, shortcut])
    h = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu", name="down")(h)
    h = layers.GlobalAveragePooling2D(name="pool")(h)
    model = tf_keras.Model(image, layers.Dense(10, activation="softmax", name="classes")(h), name="digits")
    compiled = {"optimizer": "adam", "loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
    model.compile(**compiled)
    model.fit(x, y, epochs=8, verbose=0)

    pruning = tfmot.sparsity.keras
    schedule = pruning.PolynomialDecay(
        initial_sparsity=0.0, final_sparsity=0.5, begin_step=0, end_step=60, frequency=10
    )
    wrapped = pruning.prune_low_magnitude(model, pruning_schedule=schedule)
    wrapped.compile(**compiled)
    wrapped.fit(x, y, epochs=4, verbose=0, callbacks=[pruning.UpdatePruningStep()])
    wrapped.save(os.path.join(folder, "wrapped.h5"))
    np.save(os.path.join(folder, "scores.npy"), wrapped.predict(x[:50], verbose=0))


def main(folder: str) -> dict[str, float]:
    """The job; returns its figures."""
    # A process of its own, as `tf.keras` can be of one Keras only.
    subprocess.run([sys.executable, __file__, "make", folder], check=True, capture_output=True)
    place = pathlib.Path(folder)
    (x, y), (x_test, y_test) = demo.digits()

    old = legacy.read(place / "wrapped.h5")
    print(old)
    model = old.model
    difference = np.abs(model.predict(x[:50], verbose=0) - np.load(place / "scores.npy")).max()

    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    prune, aware = Prune(0.5), QuantizeAware("int8")
    model.fit(x[:1000], y[:1000], epochs=2, verbose=0, callbacks=[prune, aware])
    print(prune.report)

    model.save(place / "pruned.keras")
    aware.twin.save(place / "quantized.keras")
    file = tfstruct.to_tflite(aware.twin, verification=(x_test, y_test), measure_latency=False)
    print(file.report)
    file.save(place / "model.tflite")

    packed = tfstruct.pack(file)
    packed.save(place / "model.tfpack")
    again = keras.models.load_model(place / "pruned.keras")
    kernels = [layer.kernel.numpy() for layer in again.layers if layer.name in ("stem", "pointwise", "down", "classes")]
    return {
        "difference to Keras 2": float(difference),
        "zeros": float(np.mean(np.concatenate([k.ravel() for k in kernels]) == 0)),
        "zeros kept from TFMOT": float(
            np.mean([(again.get_layer(n.split("/")[0]).kernel.numpy()[~m] == 0).mean() for n, m in old.masks.items()])
        ),
        "zeros in the file": max(o.zeros or 0.0 for o in tfstruct.convert.describe(place / "model.tflite").operators),
        "accuracy of Keras": again.evaluate(x_test, y_test, verbose=0, return_dict=True)["accuracy"],
        "accuracy of the file": file.report.verification.tflite.accuracy,
        "top-1 equal to the twin": file.report.verification.outputs[0].top1_agreement,
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        make(sys.argv[2])
    else:
        for what, figure in main(sys.argv[1] if sys.argv[1:] else ".").items():
            print(f"{what}: {figure:.4g}")
