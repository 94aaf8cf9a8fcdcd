"""How conversions grow: time and memory by parameters, beside TensorFlow's converter; memory by calibration samples."""

import json
import pathlib
import sys
from collections.abc import Callable

import keras
import numpy as np
from interleaved import Table, slopes
from networks import encoder
from own_process import measured, row_of

import tfstruct

# Depth and width of encoders, by their parameters.
WIDTHS = {"35M": (6, 512), "108M": (12, 768), "309M": (22, 1_024)}
# What a conversion takes at most, in the model's bytes: the model and TensorFlow itself are more.
TIMES = {"TFLiteConverter": 6, "litert-quantizer": 9, "to_tflite": 4}
TENSORFLOW = 3 << 29
SAMPLES = (25, 100, 400)
PEER, QUANTIZER, OURS = "TFLiteConverter", "litert-quantizer", "to_tflite"
WORKS = ((PEER, "dynamic"), (OURS, "dynamic"), (QUANTIZER, "int4"), (OURS, "int4"))


def conversions(quick: bool, folder: str | None) -> None:
    """Each in a process of its own that has converted a small model before. Memory is what that process and its
    children held at most above what they held before; the float file of litert-quantizer is TFLiteConverter's."""
    widths = dict(list(WIDTHS.items())[: 1 if quick else None])
    table = Table(
        "scale_conversion", "weights in integers, by parameters of an encoder", {"widths": list(widths)}, folder
    )
    for name, (depth, width) in widths.items():
        for tool, precision in WORKS:
            row = table.row(f"{name}, {precision}: {tool}", lambda a=(tool, precision, depth, width): _if_it_fits(*a))
            peer = table.rows[f"{name}, {precision}: {PEER if precision == 'dynamic' else QUANTIZER}"]
            if tool == OURS and "CPU s" in row and "CPU s" in peer:
                ratio = row["CPU s"] / peer["CPU s"]
                table.replace(f"{name}, {precision}: {tool}", {**row, "CPU s / peer": ratio})
    if len(widths) > 1:
        for tool, precision in WORKS:
            rows = [dict(table.rows[f"{name}, {precision}: {tool}"]) for name in widths]
            rows = [row for row in rows if "CPU s" in row]
            if len(rows) < 2:
                continue
            sizes = [row["parameters"] for row in rows]
            kept = [{name: row[name] for name in ("CPU s", "MB", "bytes")} for row in rows]
            table.row(f"slope, {precision}: {tool}", lambda s=sizes, r=kept: slopes(s, r))
    table.show()

    counts = SAMPLES[: 2 if quick else None]
    table = Table("scale_samples", "int8 of MobileNetV2 at 96, by calibration samples", {"counts": counts}, folder)
    for count in counts:
        for calibrator in ("minmax", "percentile"):
            table.row(f"{count}, {calibrator}", lambda a=(calibrator, "int8", count, 96): row_of(__file__, *a))
    for calibrator in ("minmax", "percentile"):
        rows = [{"MB": table.rows[f"{count}, {calibrator}"]["MB"]} for count in counts]
        table.row(f"slope, {calibrator}", lambda r=rows: slopes(counts, r))
    table.show()


def _if_it_fits(tool: str, precision: str, depth: int, width: int) -> dict:
    """The row, or a note where the machine has less memory to give than the tool takes."""
    size = 4 * (12 * depth * width**2 + 30_522 * width)
    needed, there = (1 + TIMES[tool]) * size + TENSORFLOW, _available()
    if there < needed:
        return {"note": f"not run: it takes {needed / 2**30:.0f} GiB, and {there / 2**30:.0f} were free"}
    return row_of(__file__, tool, precision, depth, width)


def _available() -> int:
    """Bytes that Linux can still give, less an eighth of the machine's, which is left to other programs."""
    lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    total, free = (
        next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))
        for name in ("MemTotal", "MemAvailable")
    )
    return free - total // 8


def _alone(tool: str, precision: str, depth: int, width: int) -> dict:
    if precision == "int8":
        return _calibrated(tool, depth, width)
    _work(tool, precision, encoder(1, 64, 64))()  # what is imported and started once
    model = encoder(depth, width)
    row = measured(_work(tool, precision, model))
    size = sum(int(np.prod(weight.shape)) * 4 for weight in model.weights) / 2**20
    return {"parameters": model.count_params(), **row, "of the model's memory": row["MB"] / size}


def _calibrated(calibrator: str, count: int, side: int) -> dict:
    model = keras.applications.MobileNetV2((side, side, 3), weights=None)

    def convert(model, count):
        def samples():
            rng = np.random.default_rng(0)
            return (rng.uniform(-1, 1, (1, side, side, 3)).astype("float32") for _ in range(count))

        recipe = tfstruct.Recipe("int8", calibration=samples, calibrator=calibrator, measure_latency=False)
        return tfstruct.to_tflite(model, recipe).content

    convert(model, 2)
    return measured(lambda: convert(model, count))


def _work(tool: str, precision: str, model: keras.Model) -> Callable[[], bytes]:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter
    if tool == OURS:
        activations = {"activations": "float32"} if precision == "int4" else {}
        recipe = tfstruct.Recipe(precision, measure_latency=False, **activations)
        return lambda: tfstruct.to_tflite(model, recipe).content

    def peer() -> bytes:
        made = converter.from_keras_model(model)
        made.optimizations = [tf.lite.Optimize.DEFAULT]
        return made.convert()

    def quantizer() -> bytes:
        from litert_quantizer import qtyping, quantizer

        engine = quantizer.Quantizer(bytearray(converter.from_keras_model(model).convert()))
        engine.add_dynamic_config(".*", qtyping.TFLOperationName.ALL_SUPPORTED, 4)
        return bytes(engine.quantize().quantized_model)

    return peer if tool == PEER else quantizer


if __name__ == "__main__":
    tool, precision, *size = sys.argv[1:]
    print(json.dumps(_alone(tool, precision, *map(int, size))))
