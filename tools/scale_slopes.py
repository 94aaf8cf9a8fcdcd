"""How the cost of looking at a model, and of surgery, grows with its layers and with its parameters."""

import gc
import os
import resource
import subprocess
import sys

import keras
from conversion_scale import WIDTHS, conversions
from interleaved import Table, medians, slopes
from networks import chain, clone, encoder

import tfstruct
from tfstruct import graph
from tfstruct.surgery import optimize_inference

COUNTS = (50, 200, 800, 5_000)


def _works(model: keras.Model) -> dict:
    plan = tfstruct.plan_channels(model, {"macs": 0.5})
    return {
        "clone": lambda: clone(model),
        "trace": lambda: graph.trace(model),
        "groups": lambda: graph.groups(graph.trace(model)),
        "plan_channels": lambda: tfstruct.plan_channels(model, {"macs": 0.5}),
        "apply": lambda: tfstruct.apply(model, plan),
        "shrink": lambda: tfstruct.shrink(model),
        "optimize_inference": lambda: optimize_inference(model),
        "profile": lambda: tfstruct.profile(model),
        "explain": lambda: tfstruct.explain(model),
    }


def scale(rounds: int, quick: bool = False, folder: str | None = None) -> None:
    """CPU seconds by number of layers, then by number of parameters, with the slope of a fit in log-log; peak memory;
    then conversions.

    A slope of 1 is a cost that grows as the model does.
    """
    sys.setrecursionlimit(100_000)  # Keras walks a model recursively when it makes one
    rounds = 1 if quick else rounds
    counts = (50, 100, 200) if quick else COUNTS
    layers = Table("scale_layers", "CPU seconds by layers of a chain", {"rounds": rounds, "counts": counts}, folder)
    for count in counts:
        # The largest are measured once, without a round that warms up: there is nothing left to warm.
        layers.row(f"{count:,}", lambda n=count: _by_name(_works(chain(n)), rounds if n <= 800 else 0))
        keras.backend.clear_session()
    layers.row("slope", lambda: slopes(counts, [layers.rows[f"{n:,}"] for n in counts]))
    layers.show()

    widths = dict(list(WIDTHS.items())[: 1 if quick else None])
    settings = {"rounds": rounds, "widths": list(widths)}
    parameters = Table("scale_parameters", "CPU seconds and peak GiB by parameters of an encoder", settings, folder)
    for name, (depth, width) in widths.items():
        parameters.row(name, lambda size=(depth, width): _encoder(*size))
    if len(widths) > 1:
        rows = [dict(parameters.rows[name]) for name in widths]
        sizes = [row.pop("parameters") for row in rows]
        parameters.row("slope", lambda: slopes(sizes, rows))
    parameters.show()
    conversions(quick, folder)


def _by_name(works: dict, rounds: int) -> dict:
    if rounds:
        return medians(works, rounds)
    return {name: _once(work) for name, work in works.items()}


def _once(work) -> float:
    gc.collect()  # what the work before has left
    before = _cpu()
    work()
    return _cpu() - before


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _encoder(depth: int, width: int) -> dict:
    """Each work in a process of its own, as the peak of memory is that of a process."""
    found: dict = {"parameters": encoder(depth, width).count_params()}
    for name in ("clone", "apply", "shrink", "optimize_inference"):
        command = [sys.executable, os.path.abspath(__file__), name, str(depth), str(width)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        found |= {name: float(said[-2]), f"{name} GiB": float(said[-1])}
    return found


def _alone(name: str, depth: int, width: int) -> None:
    tfstruct.shrink(encoder(1, 64, 64))  # what is imported and made once
    works = _works(encoder(depth, width))
    seconds = _once(works[name])
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


if __name__ == "__main__":
    _alone(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
