"""The first conversion of a process, and the memory that one takes: `python tools/bench.py convert_first`.

Each tool converts in a process of its own, in which TensorFlow, Keras and tfstruct are imported and the model is made.
"""

import contextlib
import io
import json
import sys

import keras
from conversion_times import MODELS, OURS, PEER, PRECISIONS, QUANTIZER, QUICK, samples_of, works
from interleaved import Table
from own_process import measured, row_of

from tfstruct.convert.converter import ConverterProcess
from tfstruct.errors import ConversionError

START = "worker's start"


def convert_first(rounds: int, quick: bool = False, folder: str | None = None) -> None:
    """CPU and wall seconds and the peak of memory, and their ratios to the peer, also without the worker's start."""
    table = Table("convert_first", "the first conversion in a process, MB above what it held before", {}, folder)
    start = table.row(START, lambda: row_of(__file__, START))
    for name in QUICK if quick else MODELS:
        for precision in PRECISIONS:
            for tool in (PEER, OURS, *([QUANTIZER] if precision == "int8" else [])):
                key = f"{name}, {precision}: {tool}"
                row = table.row(key, lambda a=(name, precision, tool): row_of(__file__, *a))
                peer = table.rows[f"{name}, {precision}: {PEER}"]
                ratios = {f"{cost} / {PEER}": row[cost] / peer[cost] for cost in ("CPU s", "wall s", "MB")}
                if tool == OURS:  # the process with TensorFlow is kept for later conversions
                    ratios |= {
                        f"{cost} without the start / {PEER}": (row[cost] - start[cost]) / peer[cost]
                        for cost in ("CPU s", "MB")
                    }
                table.replace(key, row | ratios)
    table.show()


def _started() -> bytes:
    """What a process costs that has loaded TensorFlow's converter, and has been given no file."""
    with ConverterProcess() as process, contextlib.suppress(ConversionError):
        process.load(b"")
    return b""


def _alone(name: str, precision: str, tool: str) -> dict:
    model = MODELS[name]()
    keras.utils.set_random_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        return measured(works(model, precision, samples_of(model))[tool])


if __name__ == "__main__":
    print(json.dumps(measured(_started) if sys.argv[1] == START else _alone(*sys.argv[1:])))
