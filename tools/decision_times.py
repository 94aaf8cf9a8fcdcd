"""What a decision costs without training, and what its cost model is worth: `python tools/bench.py decide`.

MobileNetV2 (224) and a transformer encoder of 6 layers, with random weights. Damages are drawn: what alternatives lose
is measured by training. Latencies are of the processor's time in one thread, of the plain file and of each choice in
turn, so that other programs count less.
"""

import statistics
import tempfile
import types

import keras
import numpy as np
from interleaved import Table, cpu_seconds
from keras import layers

from tfstruct import graph as graphs
from tfstruct.compression.alternatives.cost_table import totals
from tfstruct.compression.alternatives.cost_tables import cost_tables
from tfstruct.compression.alternatives.latency_tables import latency_tables
from tfstruct.compression.alternatives.offered import conflicts_of, edited, parts_of
from tfstruct.compression.alternatives.operator_times import OperatorTimes, time_file
from tfstruct.compression.alternatives.solver import choose
from tfstruct.compression.alternatives.variants import variants_of
from tfstruct.convert.converter import ConverterProcess
from tfstruct.convert.draft import draft
from tfstruct.convert.recipe import Recipe


def mobilenet():
    return keras.applications.MobileNetV2(weights=None)


def encoder(depth: int = 6, width: int = 128):
    x = inputs = keras.Input((64, width), name="tokens")
    for i in range(depth):
        y = layers.MultiHeadAttention(num_heads=4, key_dim=width // 4, name=f"attention{i}")(x, x)
        x = layers.LayerNormalization(name=f"norm{i}a")(layers.Add(name=f"add{i}a")([x, y]))
        y = layers.Dense(4 * width, activation="relu", name=f"ff{i}a")(x)
        y = layers.Dense(width, name=f"ff{i}b")(y)
        x = layers.LayerNormalization(name=f"norm{i}b")(layers.Add(name=f"add{i}b")([x, y]))
    x = layers.GlobalAveragePooling1D(name="gap")(x)
    return keras.Model(inputs, layers.Dense(10, name="head")(x), name="encoder")


def decide(rounds: int, quick: bool = False, folder: str | None = None) -> None:
    """`rounds` choices are assembled of each model; ten are what the figures of the project are of."""
    table = Table("decide", f"a decision without training, {rounds} assembled choices", {"rounds": rounds}, folder)
    for build in (encoder,) if quick else (encoder, mobilenet):
        table.row(build.__name__, lambda build=build: _row(with_vectors(build()), rounds))
    table.show()


def with_vectors(model):
    """Biases and vectors that differ: equal ones would be stored once, as in no trained model."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if len(weight.shape) == 1 or "bias" in weight.name:
            weight.assign(
                rng.uniform(0.5, 1.5, weight.shape) if "var" in weight.name else rng.normal(1, 0.2, weight.shape)
            )
    return model


def _row(model, rounds: int) -> dict:
    limits = types.SimpleNamespace(figures={"tflite_bytes": 1.0})
    graph, settings = graphs.trace(model), types.SimpleNamespace(target="mobile")
    with ConverterProcess(timeout=300) as process, tempfile.TemporaryDirectory() as folder:
        start = cpu_seconds()
        task = types.SimpleNamespace(model=model, graph=graph, limits=limits, settings=settings, process=process)
        task.original = types.SimpleNamespace(params=model.count_params())
        parts = parts_of(task)
        plain, variants, times = draft(model, process=process), list(variants_of(graph, parts)), OperatorTimes(folder)
        whole = time_file(plain[0])
        made = [*cost_tables(graph, parts, plain, variants), *latency_tables(variants, parts, plain, times, whole)]
        ready = cpu_seconds()
        rng, sizes, latencies, solved = np.random.default_rng(0), [], [], []
        base = totals(made, dict.fromkeys((part.name for part in parts), 0))
        for number in range(rounds):
            damages = {p.name: np.r_[0, np.sort(rng.exponential(1, len(p.alternatives) - 1))] for p in parts}
            within = {name: rng.uniform(0.4, 0.8) * base[name] for name in ("tflite_bytes", "latency_us")}
            before = cpu_seconds()
            found = choose(
                parts, made, damages, within, conflicts=conflicts_of(parts), runners_up=3 * (number == 0),
                prices=number == 0,
            )  # fmt: skip
            solved.append(cpu_seconds() - before)
            content = _assembled(model, parts, found, process)
            taken = whole * time_file(content) / time_file(plain[0])
            sizes.append(abs(found.figures["tflite_bytes"] / len(content) - 1))
            latencies.append(abs(found.figures["latency_us"] / taken - 1))
    return {
        "parts": len(parts), "CPU s to the tables": ready - start, "to the choice": ready - start + solved[0],
        "bytes off by, %": 100 * statistics.median(sizes), "at most": 100 * max(sizes),
        "latency off by, %": 100 * statistics.median(latencies), "at the most": 100 * max(latencies),
    }  # fmt: skip


def _assembled(model, parts, found, process) -> bytes:
    model, precisions = edited(model, found.changes(parts))
    return draft(model, recipe=Recipe(precision="int8", layers=precisions), process=process)[0]
