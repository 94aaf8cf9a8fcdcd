"""The troubles with files of docs/troubleshooting.md, made on purpose: the symptom, how it shows, and the cure.

python examples/troubles_with_files.py [int8 | pruned | slower | floats | size | arena]
"""

import sys

import keras
import numpy as np
from keras import layers

import tfstruct
from tfstruct import demo, quantize
from tfstruct.callbacks import Prune
from tfstruct.errors import ConversionError

(X, Y), TEST = demo.digits()
FAST = {"calibration": X[:200], "verification": TEST, "measure_latency": False}


def accuracy(model) -> str:
    return f"{np.mean(model.predict(TEST[0], verbose=0).argmax(1) == TEST[1]):.1%} right"


def int8():
    model = demo.train(X, Y)
    norm = model.get_layer("norm1")  # one channel a hundred times as large, which its reader undoes
    norm.gamma.assign(norm.gamma * np.where(np.arange(16) == 3, 100, 1))
    norm.beta.assign(norm.beta * np.where(np.arange(16) == 3, 100, 1))
    kernel = model.get_layer("conv2").kernel
    kernel.assign(kernel / np.where(np.arange(16) == 3, 100, 1)[:, None])
    file = tfstruct.to_tflite(model, "int8", **FAST)
    yield f"Keras {accuracy(model)}, the int8 file {file.report.verification.tflite.accuracy:.1%}"
    yield f"most is lost at {', '.join(file.layer_errors()[0].layers)}"
    even = quantize.equalize(tfstruct.surgery.fold_batch_norm(model).model)
    yield f"equalized: {tfstruct.to_tflite(even, 'int8', **FAST).report.verification.tflite.accuracy:.1%}"


def pruned():
    model = demo.train(X, Y)
    smaller = tfstruct.apply(model, tfstruct.plan_channels(model, "macs=50%"))
    yield f"half of the work: {accuracy(model)} before, {accuracy(smaller)} now"
    tfstruct.recalibrate_batch_norm(smaller, X[:500])
    yield f"batch norms measured anew: {accuracy(smaller)}"
    smaller.fit(X, Y, epochs=3, verbose=0)
    yield f"trained on for three epochs: {accuracy(smaller)}"


def slower():
    model = demo.train(X, Y)
    model.fit(X, Y, epochs=1, verbose=0, callbacks=[Prune(0.8)])
    smaller = tfstruct.apply(model, tfstruct.plan_channels(model, "macs=50%", round_to=8))
    for name, one in (("80 % of the weights at zero", model), ("half of the work gone", smaller)):
        file = tfstruct.to_tflite(one, "int8", calibration=X[:200])
        work = sum(found.macs for found in tfstruct.convert.describe(file).operators)
        yield f"{name}: {work:,} MACs in the file, {file.report.latency[0].median_us:.1f} µs on this machine"


def floats():
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, name="conv")(image)
    model = keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling2D()(keras.ops.sin(x))))
    try:
        tfstruct.to_tflite(model, "int8", **FAST)
    except ConversionError as error:
        yield str(error)
    kept = tfstruct.to_tflite(model, "int8", allow_float=True, **FAST)
    yield f"allowed: in float are {', '.join(sorted({one.name for one in kept.report.float_operators}))}"


def size():
    model = demo.train(X, Y)
    plan = tfstruct.plan_channels(model, {"tflite_bytes": 0.6}, round_to=4)
    for name, one, precision in (
        ("whole", model, "int8"),
        ("", model, "int4"),
        ("pruned", tfstruct.apply(model, plan), "int4"),
    ):
        yield f"{name or 'whole'}, {precision}: {tfstruct.to_tflite(one, precision, **FAST).report.size:,} bytes"


def arena():
    model = demo.train(X, Y)
    yield tfstruct.check_target(tfstruct.to_tflite(model, "int8", **FAST).content, "micro").facts[-1][1]
    smaller = tfstruct.apply(model, tfstruct.plan_channels(model, {"peak_memory": 0.5}))
    yield tfstruct.check_target(tfstruct.to_tflite(smaller, "int8", **FAST).content, "micro").facts[-1][1]


TROUBLES = (int8, pruned, slower, floats, size, arena)


def main(*names: str) -> None:
    for trouble in TROUBLES:
        if not names or trouble.__name__ in names:
            print(trouble.__name__, *trouble(), sep="\n  ")


if __name__ == "__main__":
    main(*sys.argv[1:])
