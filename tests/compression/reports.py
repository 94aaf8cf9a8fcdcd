"""A report of a compression made by hand, with all that a page can show."""

import dataclasses

import numpy as np

from tfstruct.analyze import Sensitivity
from tfstruct.compression import Budget, Candidate, CompressionReport, Decision, Stage
from tfstruct.compression.mistakes import find_mistakes
from tfstruct.compression.steps import PruneChannels, Quantize
from tfstruct.convert.runtime import Port


def candidate(name: str, quality: float, **figures) -> Candidate:
    costs = {"params": 1000, "macs": 50_000, "tflite_bytes": 8000, "gzip_bytes": 6000, "latency_us": 40.0}
    scores = {"recall": quality - 0.01, "precision": quality + 0.01, "top1_agreement": 0.95, "sqnr_db": 21.5}
    return Candidate(name, "accuracy", quality, scores=scores, **{**costs, **figures})


def mistakes(images: bool = True):
    """300 samples of ten classes, of which the original gets every eleventh wrong and the file every seventh."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(300, 8, 8, 1) if images else (300, 40, 2)).astype("float32")
    labels = np.arange(300) % 10

    def outputs(every):
        said = np.where(np.arange(300) % every == 0, (labels + 1) % 10, labels)
        return 0.6 * np.eye(10)[said] + 0.04

    return find_mistakes([inputs], [labels], [outputs(11)], [outputs(7)], ["probabilities"])


def report(**changes) -> CompressionReport:
    original = candidate("original", 0.91, tflite_bytes=20_000, latency_us=60.0)
    plain = candidate("plain int8", 0.9)
    prune = PruneChannels(reason="channels go until macs 25,000", epochs=3, budget={"macs": 25_000.0})
    quantize = Quantize(reason="int8 for mobile", epochs=1)
    pruned = candidate("prune_channels", 0.885, macs=24_000, params=600, tflite_bytes=5200, latency_us=25.0)
    result = candidate("result", 0.893, macs=24_000, params=600, tflite_bytes=5000, gzip_bytes=3900, latency_us=24.0)
    result = result.replace(strategy=(prune, quantize))
    budget = Budget(accuracy_drop=0.02, macs=0.5, tflite_bytes=0.65)
    logs = ({"loss": 0.5, "accuracy": 0.8}, {"loss": 0.25})
    layers = [f"block{i}_conv" for i in range(8)]
    made = CompressionReport(
        "net", budget, budget.limits(original, plain), original, plain, result,
        decisions=(
            Decision("prune_channels", True, "the budget asks for a half"),
            Decision("share_layers", False, "no two layers are alike"),
        ),
        stages=(
            Stage(
                prune, tuple((name, "32 -> 16 channels") for name in layers), (("head", "an output"),), pruned, logs,
                seconds=12.0,
            ),
            Stage(quantize, (("head", "8 bits"),), (), result, logs[:1], seconds=3.0),
        ),
        candidates=(plain, pruned, result),
        widths={**{name: (32, 16) for name in layers}, "old": (8, 0), "head": (10, 10)},
        test={"original": 0.905, "plain": 0.9, "result": 0.89},
        settings={"epochs": 4, "seed": 0}, processor="A processor, 2 cores",
        versions={"tfstruct": "0.1.0", "keras": "3.15.0"}, seconds=20.0, warnings=("only 300 samples",),
        data={"train": "1,000 samples (arrays)", "validation": "300 samples (arrays)", "test": "360 samples (arrays)"},
        ports={
            "inputs": (Port("image", 0, (1, 8, 8, 1), np.dtype("int8"), 0.0625, -128),),
            "outputs": (Port("classes", 9, (1, 10), np.dtype("int8"), 0.00390625, -128),),
        },
        mistakes=mistakes(),
        sensitivity=Sensitivity(
            "net", "accuracy", 0.91, (0.25, 0.5), dict.fromkeys(layers, (0.9, 0.8)), dict.fromkeys(layers, (8, 16))
        ),
    )  # fmt: skip
    return dataclasses.replace(made, **changes)
