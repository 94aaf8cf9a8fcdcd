"""One small report of each class, with a name of the test's in every place where a user's text can stand."""

import dataclasses
import math

import numpy as np
from compression import reports

from tfstruct import analyze, callbacks, convert, distill, initializers, surgery
from tfstruct.analyze.drawing import Box, Picture
from tfstruct.analyze.group_report import GroupRow
from tfstruct.analyze.layer_profile import Row
from tfstruct.callbacks.channel_report import Widths
from tfstruct.callbacks.cluster_report import SharedWeight
from tfstruct.callbacks.probe import Figures, LayerFigures
from tfstruct.callbacks.sparsity_report import SparseWeight
from tfstruct.compression import SearchReport, Trial
from tfstruct.compression.alternatives.front import Front, FrontPoint
from tfstruct.convert.agreement import Agreement
from tfstruct.convert.devices.device import Memory
from tfstruct.convert.file_report import FileOperator
from tfstruct.convert.flatbuffer import Operator
from tfstruct.convert.latency import Estimate, Estimated, OperatorLatency
from tfstruct.convert.layer_errors import LayerError
from tfstruct.convert.packing.report import PackedTensor
from tfstruct.convert.runtime import Latency, Port
from tfstruct.convert.signatures import Unshared
from tfstruct.convert.target_report import Row as Judged
from tfstruct.distill.distillation_report import Compared
from tfstruct.quantize.bias_report import BiasCorrection, CorrectedBias
from tfstruct.quantize.equalization_report import Equalization, Evened
from tfstruct.quantize.precision_report import ChosenPrecision, PrecisionReport
from tfstruct.quantize.quantization_report import QuantizedActivation
from tfstruct.quantize.reconstruction_report import Reconstructed, Reconstruction
from tfstruct.quantize.scheme import Scheme
from tfstruct.quantize.sensitivity_report import LayerSensitivity, QuantizationSensitivity
from tfstruct.reporting import ChangeReport, InPlaceReport
from tfstruct.streaming import StreamingReport, StreamPlan
from tfstruct.streaming.plan import StreamInput, StreamOutput, StreamState
from tfstruct.surgery.certificate import Difference
from tfstruct.surgery.grow.bottlenecks import Finding
from tfstruct.surgery.lossless.branches import Branch
from tfstruct.surgery.lossless.shrinking import Fold


def threshold_choice(name):
    three = (1.0, 0.9, 0.5)
    return analyze.ThresholdChoice(
        name, name, "mean", "mean", "loss", False, 5, 0.01, 0.1, 0.2, (0.1, 0.2, 0.3), (0.5, 0.6, math.nan),
        (0.01, 0.02, 0.03), three, three,
    )  # fmt: skip


def sensitivity(name):
    return analyze.Sensitivity(
        name, "accuracy", 0.9, (0.25, 0.5), {name: (0.9, math.nan), "b": (0.8, 0.7)}, {name: (1, 2)}
    )


def profile(name):
    rows = (
        Row(name, "Conv2D", (None, 8, 3), 1234, 56789, 4936, 512, 1.5),
        Row("odd", "Odd", (8,), 0, None, 0, 32, 0.0),
    )
    return analyze.Profile(name, rows, 1234, 56789, 4936, 512, name, ("odd",))


def groups(name):
    rows = (
        GroupRow(name, (name,), ((name, "kernel", 3, "makes"),), 8, 6, "", "", ((2, 4),)),
        GroupRow("head", ("head",), (), 10, 0, "the model's own output", "", ()),
    )
    picture = Picture(
        name, (Box("x", "input", 3, -1, 0, 0), Box(name, "Conv2D", 8, 0, 1, 0)), ((0, 1),), ((name, 8, True, True),)
    )
    return analyze.GroupReport(name, rows, 18, 6, {name: "no rule knows it"}, picture)


SMALL = Difference(1e-6, 1e-7, 1e-5)


def shrink_report(name):
    branches = (Branch(name, 1, "added zero"),)
    return surgery.ShrinkReport(
        0.0, {name: (1, 2, 4)}, {name: (0, 3)}, (Fold(name, "bias", 1),), branches, (name,), (120, 80), SMALL
    )


def bottlenecks(name):
    found = Finding(name, "wide", 0.5, "rank 3 of 9", "prune", "cut down to 3 channels", 3)
    return surgery.Bottlenecks(name, "accuracy", (found,), {name: {"width": 9, "effective_rank": math.nan}})


def plan(name):
    costs = {"macs": 1000.0}, {"macs": 400.0}
    return surgery.Plan("0123", {name: [0, 2]}, {name: 4}, *costs, {"budget": 0.4}, {"head": "the model's own output"})


def channel_report(name):
    return callbacks.ChannelReport(
        {"macs": 0.5}, {"macs": 500.0}, "l2", "global", "hard", (Widths(name, (name,), 8, 5),), ((name, "output"),),
        {"macs": 1000.0}, {"macs": 480.0}, ((0, 0.0, 0.0), (10, 1.0, 0.375)), True, ("a note",),
    )  # fmt: skip


def diagnosis(name):
    found = callbacks.Finding("dead_units", "90 % of the units are zero", ("a smaller rate", "LeakyReLU"), name, 3)
    probes = tuple(
        Figures(step, 1.0 / (step + 1), {name: LayerFigures(0.5, 1.0, 0.2)}, 0.1, {name: 0.9}) for step in (0, 5)
    )
    return callbacks.Diagnosis(
        name, 1, (found,), probes, ((1, 0.9), (5, math.nan)), ((5, 0.5, 0.6),), ("no validation data",)
    )


def range_test(name):
    losses = (1.0, 0.9, 0.5, 0.7, math.inf)
    return callbacks.RangeTest(
        (1e-4, 1e-3, 1e-2, 1e-1, 1.0), losses, (*losses[:4], math.nan), 1e-2, 1.0, name, "steepest"
    )


def distillation(name):
    losses = Compared(name, 1.0, ((name, "conv", "as they are"), (None, None, "as they are")))
    return distill.DistillationReport(name, "teacher", 1, 0.5, (losses,), ((1, {name: 0.5}), (2, {name: 0.25})))


def layer_sensitivity(name):
    rows = (LayerSensitivity(name, (name,), "int8", 30.5, 0.91), LayerSensitivity("b", ("b",), "int4", math.inf, 0.92))
    return QuantizationSensitivity(name, 1, "accuracy", 0.92, rows)


def verification(name):
    outputs = (Agreement(name, 0.25, 0.0125, math.inf, 0.99951, None), Agreement("y", 0.25, 0.01, 31.2, 0.99, 0.9))
    return convert.Verification(name, 1, outputs, layers=(LayerError((name,), "t", 35.5, 0.1),))


def conversion(name):
    operator = Operator(0, 0, "CONV_2D", (name,), ("x",), ("y",), "int8", "int8", False)
    return convert.Report(
        name, "int8", "litert", {"note": name, "timeout": math.inf}, 1, 67890, 4321, (operator,), (),
        verification(name), (Latency(1, 123.4, 150.0, 1000),), "a processor", (), (name,), {"convert": 1.5},
    )  # fmt: skip


def pack_report(name):
    tensor = PackedTensor(name, "float32", (3, 3), 9, 4, 1, 1.9, 36, 20, None, 12, "indices")
    return convert.PackReport(name, "keras", (tensor,), 1000, 500, None, 400, None, 300, "lzma")


def compression(name):
    report = reports.report()
    stage = dataclasses.replace(report.stages[0], changes=((name, name),))
    return dataclasses.replace(
        report, model=name, warnings=(name,), stages=(stage,), widths={name: (2, 1)}, processor=name
    )


def search_report(name):
    report = compression(name)
    trials = (
        Trial(0, report.result.strategy, 0, 0, "0", report.result.replace(name=name)),
        Trial(1, report.result.strategy, 1, 1, "1", reason=name),
    )
    three = ("quality", "tflite_bytes", "macs")
    return SearchReport(name, "sqlite:///search.db", three, report.limits, report.original, report.plain, trials)


TIMED = (((1, 8, 8, 3), (1, 8)),)


def file_report(name):
    image = Port(name, 0, (None, 8), np.dtype("int8"), 0.5, -3)
    scores = Port("scores", 1, (None, 2), np.dtype("float32"), 0.0, 0)
    kernel = FileOperator("FULLY_CONNECTED", (name,), "int8", "int8", 24, 0.25, 7, 16)
    bare = FileOperator("DEQUANTIZE", (), "float32", "", 0, None, None, 2)
    return convert.FileReport(name, 512, (image,), (scores,), (kernel, bare))


EXAMPLES = {
    "ChangeReport": lambda name: ChangeReport(name, ((name, "8 bits"),), ((name, "in float"),)),
    "InPlaceReport": lambda name: InPlaceReport(name, ((name, "penalized"),), ((name, "frozen"),), {name: 1.5}),
    "PrecisionReport": lambda name: PrecisionReport(
        name, "int8", "tflite_bytes", 900.0, 800.0, 750.0, (ChosenPrecision(name, "int4", 0.01, 250.0),)
    ),
    "BiasCorrection": lambda name: BiasCorrection(
        "int8", (CorrectedBias(name, 0.1, 0.2, 1.5),), ((name, "it has none"),)
    ),
    "Bottlenecks": bottlenecks,
    "ChannelReport": channel_report,
    "ClusterReport": lambda name: callbacks.ClusterReport(
        "kmeans", "kernel", 4, 1, (SharedWeight(name, (3, 3), 9, 4, 1, 1.9, 0.05),), ((name, "too few weights"),)
    ),
    "CompressionReport": compression,
    "Diagnosis": diagnosis,
    "DistillationReport": distillation,
    "Equalization": lambda name: Equalization(
        (Evened(name, ("b",), 0.2, 0.3, 0.9, 0.95),), ((name, 1),), ((name, "no reader"),), 1
    ),
    "QuantizationReport": lambda name: callbacks.QuantizationReport(
        Scheme("int8"), 1, (QuantizedActivation(name, -1.0, 3.0, 8),), ((name, 8),), ((name, "it stays in float"),)
    ),
    "QuantizationSensitivity": layer_sensitivity,
    "RangeTest": range_test,
    "Reconstruction": lambda name: Reconstruction(
        "adaround", "int4", (Reconstructed(name, (name,), 64, 0.05, 0.01, 0.3),), (name,)
    ),
    "Signals": lambda name: initializers.Signals(name, "loss", (name, "b"), (0.0, 0.1), (1.0, 0.5), (math.nan, 2.0)),
    "SparsityReport": lambda name: callbacks.SparsityReport(
        "element",
        "magnitude",
        "layer",
        0.5,
        (SparseWeight(name, (8, 12), 96, 48),),
        ((name, "it looks up rows"),),
        ((0, 0.0, 0.0), (10, 0.5, 0.5)),
        ("a note",),
    ),
    "VocabularyReport": lambda name: surgery.VocabularyReport(
        name,
        {name: (0, 3, 5)},
        {name: 0},
        {name: (9, 3)},
        {name: 96},
        {f"{name}/other": f"because {name}"},
        {name: (9, 3)},
    ),
    "OpeningReport": lambda name: surgery.OpeningReport(name, (name, "block"), {f"{name}/inner": f"because {name}"}),
    "ClosingReport": lambda name: surgery.ClosingReport(
        name, {name: {f"{name}.width": (8, 4)}}, {f"{name}/inner": f"because {name}"}
    ),
    "EditReport": lambda name: surgery.EditReport(
        name, ((name, "deleted"),), ((name, "no kernel"),), (9, 8), None, {}, True, lambda: SMALL
    ),
    "FileReport": file_report,
    "LatencyTable": lambda name: convert.LatencyTable(
        (OperatorLatency("CONV_2D", *TIMED, "int8", 12.5, "a board", (name,), 100),)
    ),
    "PackReport": pack_report,
    "Plan": plan,
    "SharingSuggestion": lambda name: surgery.SharingSuggestion(
        ((name, "b"),), (0.95,), (1,), ((name, "b", 0.95),), "weights", 0.9
    ),
    "ShrinkReport": shrink_report,
    "Estimate": lambda name: Estimate(
        12.5,
        (Estimated("CONV_2D", (name,), *TIMED, 12.5, "measured"), Estimated("ELU", (name,), *TIMED, None, "no")),
        (name,),
    ),
    "Front": lambda name: Front(
        "tflite_bytes",
        "loss",
        2000.0,
        (
            FrontPoint(1000.0, {"tflite_bytes": 990.0}, 0.2, 0.1, {f"width of {name}": "3 channels"}),
            FrontPoint(2000.0, {"tflite_bytes": 2000.0}, 0.0, 0.0, {}),
        ),
        {"latency_us": 20.0},
    ),
    "GradientNoise": lambda name: analyze.GradientNoise(math.inf, 1.0, -0.5, math.nan, 64, 8),
    "GroupReport": groups,
    "Importance": lambda name: analyze.Importance("l2", {name: np.array([1.0, np.inf])}, np.ones(3)),
    "Profile": profile,
    "Report": conversion,
    "SearchReport": search_report,
    "Sensitivity": sensitivity,
    "SignatureReport": lambda name: convert.SignatureReport(
        {name: conversion(name)}, 900, 500, 1500, 600, (Unshared((f"{name}/bias", "b/bias"), (8, 8), "other ranges"),)
    ),
    "StreamingReport": lambda name: StreamingReport(
        name,
        StreamPlan(
            2,
            (StreamInput(name, (2, 8), "float32", 1), StreamInput("who", (3,), "float32", None)),
            (
                StreamOutput(name, 1, 3, 6, 8),
                StreamOutput("word", None, 4, 0, 10),
                StreamOutput("fixed", None, 0, 0, 0),
            ),
            (StreamState(f"{name}_state", f"{name}_next", (4, 8), "float32", "the last 4 of the frames that come in"),),
        ),
        49,
        1e-7,
        "on 80 random frames",
        (("pads with zeros", (name,)),),
        opaque={name: "no rule knows it"},
    ),
    "TargetReport": lambda name: convert.TargetReport(
        "micro",
        "small devices",
        "a table",
        (Judged("CONV_2D", (name,), "int8", False, "no kernel", "DENSE"),),
        (("arena", "4,352 bytes"),),
        ("a note",),
    ),
    "TargetTable": lambda name: convert.TargetTable(
        (
            convert.TargetReport("micro", "small", "a table", (Judged(name, ("stem",), "int8", None, "who knows"),)),
            convert.TargetReport("gpu", "phones", "its rules", (Judged(name, ("stem",), "int8", True),), (), (name,)),
            convert.TargetReport(
                "cortex-m4:mine",
                name,
                "a table",
                (Judged(name, ("stem",), "int8", False, name),),
                (),
                (),
                (Memory("flash", "the file", 1000, 2000, 2000),),
            ),
        )
    ),
    "ThresholdChoice": threshold_choice,
    "Verification": verification,
}
NAMELESS = {"GradientNoise"}  # no user's text stands in them
