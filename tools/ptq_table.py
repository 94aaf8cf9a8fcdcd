"""Accuracy of files quantized after training: calibrators and methods, beside TensorFlow's converter and others.

All see the same 500 training images, no labels; nothing is chosen by the test images, which are looked at once a file.
"""

import functools
import json
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Callable

import keras
import numpy as np
from accuracy_tasks import DIGITS, Task, of_file, of_model, tasks
from interleaved import Table, cpu_seconds
from tensorflow_files import plain_int8

import tfstruct
from tfstruct import Recipe
from tfstruct.precisions import CALIBRATORS
from tfstruct.quantize import adaround, blockwise, calibrate, correct_bias, equalize
from tfstruct.surgery import fold_batch_norm

ENVIRONMENT = "TFSTRUCT_MCT"
QUICK = ("to_tflite int8, percentile", "tf.lite.TFLiteConverter, int8")  # of the larger network
Make = Callable[[Task], bytes]


def ptq(rounds: int, quick: bool = False, folder: str | None = None) -> None:
    """CPU seconds from the model to the file, bytes, and accuracy. With `quick` the methods that learn do 20 steps."""
    table = Table("ptq", "quantized after training with 500 images, test accuracy in percent", {"quick": quick}, folder)
    for task in tasks(quick):
        table.row(f"{task.name}: float32", lambda t=task: {"test accuracy": of_model(t.model(0), t.test)})
        makes = {**_ours(20 if quick else 1000), **_others()}
        if quick and task.name != DIGITS:
            makes = {name: makes[name] for name in QUICK}
        for name, make in makes.items():
            table.row(f"{task.name}: {name}", lambda t=task, m=make: _measured(t, m))
        if not quick or task.name == DIGITS:
            _toolkit(table, task)
        keras.backend.clear_session()
    table.show()


def _measured(task: Task, make: Make) -> dict:
    keras.utils.set_random_seed(0)
    start = cpu_seconds()
    content = make(task)
    return {"test accuracy": of_file(content, task.test), "bytes": len(content), "CPU s": cpu_seconds() - start}


def _ours(steps: int) -> dict[str, Make]:
    def recipe(precision: str, **settings) -> Make:
        def make(task: Task) -> bytes:
            data = task.calibration
            return tfstruct.to_tflite(
                task.model(0), Recipe(precision, calibration=data, measure_latency=False, **settings)
            ).content

        return make

    def method(change: Callable[[object, np.ndarray], object], precision: str, equal: bool = False) -> Make:
        """Of the calibrated twin."""

        def make(task: Task) -> bytes:
            model, data = task.model(0), task.calibration
            model = equalize(fold_batch_norm(model).model) if equal else model
            twin = change(calibrate(model, data, precision, "percentile"), data)
            return tfstruct.to_tflite(twin, Recipe(precision, measure_latency=False)).content

        return make

    found = {f"to_tflite int8, {name}": recipe("int8", calibrator=name) for name in CALIBRATORS}
    found["to_tflite int8, percentile, GPTQ"] = recipe("int8", calibrator="percentile", rounding="gptq")
    found["to_tflite int4 weights, percentile, GPTQ"] = recipe("int4", calibrator="percentile")
    for precision, said in {"int8": "int8", "int4": "int4 weights"}.items():
        found[f"correct_bias, {said}"] = method(correct_bias, precision)
        found[f"equalize, correct_bias, {said}"] = method(correct_bias, precision, equal=True)
        found[f"adaround, {said}"] = method(functools.partial(adaround, steps=steps), precision)
        found[f"blockwise, {said}"] = method(functools.partial(blockwise, steps=steps), precision)
    return found


def _others() -> dict[str, Make]:
    return {
        "tf.lite.TFLiteConverter, int8": lambda task: plain_int8(task.model(0), task.calibration),
        "litert-quantizer, int8": lambda task: _litert(task, 8),
        "litert-quantizer, int4 weights": lambda task: _litert(task, 4),
    }


def _litert(task: Task, bits: int) -> bytes:
    """On the float file of TensorFlow's converter."""
    import tensorflow as tf
    from litert_quantizer import qtyping, quantizer

    from tfstruct.convert.runtime import Runtime

    content = tf.lite.TFLiteConverter.from_keras_model(task.model(0)).convert()
    engine = quantizer.Quantizer(bytearray(content))
    engine.add_static_config(".*", qtyping.TFLOperationName.ALL_SUPPORTED, 8, bits)
    port = Runtime(content).inputs[0].name
    ranges = engine.calibrate({"serving_default": [{port: x[None]} for x in task.calibration]})
    return bytes(engine.quantize(ranges).quantized_model)


def _toolkit(table: Table, task: Task) -> None:
    """MCT's rows, or one that says why there are none."""
    rows = {"ptq": "MCT, int8", "gptq": "MCT, GPTQ, int8"}
    python = os.environ.get(ENVIRONMENT)
    if python is None:
        note = {"note": f"not measured: {ENVIRONMENT} names no Python that has it"}
        table.replace(f"{task.name}: {rows['ptq']}", note)
        return
    if all("bytes" in table.rows.get(f"{task.name}: {said}", {}) for said in rows.values()):
        return
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        model = task.legacy(task.model(0))
        (folder / "model.json").write_text(json.dumps(_older(json.loads(model.to_json()))))
        np.savez(folder / "weights.npz", *model.get_weights())
        np.save(folder / "samples.npy", task.calibration)
        script = str(pathlib.Path(__file__).with_name("mct_files.py"))
        clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}  # it has an environment of its own
        done = subprocess.run([python, script, name], env=clean, capture_output=True, text=True, check=False)
        seconds = folder / "seconds.json"
        times = json.loads(seconds.read_text()) if seconds.exists() else {}
        for kind, said in rows.items():
            row: dict = {"note": f"failed: {(done.stderr.strip().splitlines() or ['it wrote nothing'])[-1]}"}
            if kind in times:
                content = (folder / f"{kind}.tflite").read_bytes()
                row = {"test accuracy": of_file(content, task.test), "bytes": len(content), "CPU s": times[kind]}
            table.replace(f"{task.name}: {said}", row)


def _older(config):
    """The configuration of a network without what the Keras of MCT's TensorFlow does not know."""
    if isinstance(config, dict):
        return {key: _older(value) for key, value in config.items() if key != "optional"}
    return [_older(value) for value in config] if isinstance(config, list) else config
