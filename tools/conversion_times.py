"""What a conversion costs against TFLiteConverter, and litert-quantizer on its float file, in the same process.

From the second conversion on, when the converter's process is warm, and with verification; the file is not timed.
"""

import contextlib
import functools
import io
import statistics
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from interleaved import Table, costs
from networks import encoder, resnet8, text_encoder

import tfstruct
from tfstruct.convert.runtime import Runtime, latency

SAMPLES = 50
PEER, OURS, QUANTIZER = "TFLiteConverter", "to_tflite", "litert-quantizer"
MODELS = {
    "ResNet8": resnet8,
    "encoder": text_encoder,
    "MobileNetV2": lambda: keras.applications.MobileNetV2(weights=None),
    "ResNet50": lambda: keras.applications.ResNet50(weights=None),
}
PRECISIONS = ("float32", "int8")
LARGE = ("BERT-base", encoder, "dynamic")
QUICK = ("ResNet8", "encoder")


def convert(rounds: int, quick: bool = False, folder: str | None = None) -> None:
    """CPU and wall seconds, bytes and latency of the file, and the ratios to the peer."""
    rounds = 1 if quick else rounds
    title = f"conversion with {SAMPLES} samples, medians of {rounds} interleaved rounds"
    table = Table("convert", title, {"rounds": rounds}, folder)
    for name in QUICK if quick else MODELS:
        for precision in PRECISIONS:
            _rows(table, name, MODELS[name], precision, rounds)
        keras.backend.clear_session()
    if not quick:
        _rows(table, *LARGE, 1)
    table.show()


def _rows(table: Table, name: str, build: Callable[[], keras.Model], precision: str, rounds: int) -> None:
    measured = functools.cache(lambda: _measured_in_turn(build(), precision, rounds))
    for tool in (PEER, OURS, *([QUANTIZER] if precision == "int8" else [])):
        table.row(f"{name}, {precision}: {tool}", lambda tool=tool: measured()[tool])


def _measured_in_turn(model: keras.Model, precision: str, rounds: int) -> dict[str, dict]:
    """The row of each tool."""
    keras.utils.set_random_seed(0)
    data = samples_of(model)
    files: dict[str, bytes] = {}

    def kept(tool: str, work: Callable[[], bytes]) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            files[tool] = work()

    timed = {tool: functools.partial(kept, tool, work) for tool, work in works(model, precision, data).items()}
    found: dict[str, dict] = dict(costs(timed, rounds, once={QUANTIZER}))
    first = dict(found[PEER])
    for tool, row in found.items():
        row |= {"bytes": len(files[tool]), **{f"{cost} / {PEER}": row[cost] / first[cost] for cost in first}}
        row[f"latency / {PEER}"] = _latency_ratio(files[tool], files[PEER], data[:1])
    return found


def works(model: keras.Model, precision: str, data: np.ndarray) -> dict[str, Callable[[], bytes]]:
    """The conversion by each tool, by its name."""
    recipe = tfstruct.Recipe(precision, calibration=data if precision == "int8" else None, measure_latency=False)
    found = {
        PEER: lambda: _converter(model, precision, data),
        OURS: lambda: tfstruct.to_tflite(model, recipe).content,
    }
    if precision == "int8":
        found[QUANTIZER] = lambda: _litert_quantizer(model, data)
    return found


def samples_of(model: keras.Model) -> np.ndarray:
    """Random ones, as the model's input takes them."""
    (x,) = model.inputs
    rng, shape = np.random.default_rng(0), (SAMPLES, *x.shape[1:])
    if x.dtype == "int32":
        return rng.integers(0, 1000, shape).astype("int32")
    return rng.uniform(-1, 1, shape).astype("float32")


def _converter(model: keras.Model, precision: str, data: np.ndarray) -> bytes:
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "int8":
        converter.representative_dataset = lambda: ([x[None]] for x in data)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return converter.convert()


def _litert_quantizer(model: keras.Model, data: np.ndarray) -> bytes:
    from litert_quantizer import qtyping, quantizer

    content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    engine = quantizer.Quantizer(bytearray(content))
    engine.add_static_config(".*", qtyping.TFLOperationName.ALL_SUPPORTED, 8, 8)
    port = Runtime(content).inputs[0].name
    ranges = engine.calibrate({"serving_default": [{port: x[None]} for x in data]})
    return bytes(engine.quantize(ranges).quantized_model)


def _latency_ratio(ours: bytes, theirs: bytes, sample: np.ndarray) -> float:
    ratios = []
    for _ in range(5):
        one, two = (latency(file, {Runtime(file).inputs[0].name: sample}).median_us for file in (ours, theirs))
        ratios.append(one / two)
    return statistics.median(ratios)
