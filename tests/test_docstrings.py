"""Docstrings of what the rooms export: arguments, results, and examples that run."""

import doctest
import importlib
import inspect

import pytest

import tfstruct

# Examples that convert a file, in a process of its own, or trace several models.
SLOW = {
    "Board", "Converter", "Diagnose", "Distill", "StructuredSparse", "Task", "adaround", "add_board", "blockwise",
    "carry_out", "check_target", "compress", "compress_for_micro", "correct_bias", "dequantize", "measured_latency",
    "mixed_precision", "search_strategies", "to_tflite", "verify",
}  # fmt: skip
# Reports and results: a call hands them out, and its example shows them.
HANDED_OUT = {
    "Batch", "Bottlenecks", "Call", "Candidate", "ChannelReport", "Channels", "Choice", "ClusterReport", "Compressed",
    "CompressionReport", "Costs", "Decision", "Diagnosis", "DistillationReport", "Distribution", "Draws", "Each",
    "EditReport", "Finding", "GradientNoise", "Graph", "Group", "GroupReport", "Importance", "In", "Legacy", "Limits",
    "Out", "PackReport", "Packed", "Profile", "Progress", "QuantizationReport", "RangeTest", "Report", "Rewired",
    "Sample", "Samples", "SearchReport", "Sensitivity", "SharingSuggestion", "ShrinkReport", "Signals",
    "ClosingReport", "OpeningReport", "VocabularyReport", "SparsityReport", "Stage", "StrategyResult", "TFLiteModel",
    "TargetReport", "TargetTable", "Taught", "TeacherTargets", "FileReport", "TensorSpec", "ThresholdChoice", "Trial",
    "Units", "Verification",
    "SignatureReport", "Stream", "StreamPlan", "Streaming", "StreamingReport",
}  # fmt: skip


def _public() -> dict[str, object]:
    """`room.name` -> each function and class of ours that a room exports, once."""
    found: dict[str, object] = {}
    for room in tfstruct._ROOMS:
        if room == "reporting":
            continue  # what reports are made of; no user calls it
        package = importlib.import_module(f"tfstruct.{room}")
        for name in getattr(package, "__all__", ()):
            value = getattr(package, name)
            ours = callable(value) and getattr(value, "__module__", "").startswith("tfstruct.")
            error = isinstance(value, type) and issubclass(value, BaseException)
            if ours and not error and not any(value is known for known in found.values()):
                found[f"{room}.{name}"] = value
    return found


PUBLIC = _public()
CALLED = {name: value for name, value in PUBLIC.items() if name.split(".")[1] not in HANDED_OUT}


def _lacking(part: str, names) -> set[str]:
    return {name for name in names if part not in (inspect.getdoc(PUBLIC[name]) or "")}


def test_every_one_has_a_docstring_of_its_own():
    assert not [name for name, value in PUBLIC.items() if not value.__doc__]


def test_arguments_are_described():
    taking = [name for name, value in CALLED.items() if inspect.signature(value).parameters]
    lacking = _lacking("Args:", taking) & _lacking("Attributes:", taking)
    assert not lacking


def test_results_are_described():
    giving = [
        name for name, value in CALLED.items()
        if inspect.isfunction(value) and inspect.signature(value).return_annotation not in (None, "None")
    ]  # fmt: skip
    assert not _lacking("Returns:", giving)


def test_examples_are_shown():
    assert not _lacking(">>> ", CALLED)


def _begun() -> dict[str, object]:
    """What the examples go on from: the names of the one in `tfstruct`'s own docstring."""
    names: dict[str, object] = {}
    for example in doctest.DocTestParser().get_examples(tfstruct.__doc__):
        exec(example.source, names)
    return names


def _of_examples():
    for name in sorted(set(CALLED) - _lacking(">>> ", CALLED)):
        yield pytest.param(name, marks=[pytest.mark.slow] if name.split(".")[1] in SLOW else [])


@pytest.mark.parametrize("name", list(_of_examples()))
@pytest.mark.sweep(60)
def test_examples_are_true(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    test = doctest.DocTestParser().get_doctest(inspect.getdoc(PUBLIC[name]), _begun(), name, name, 0)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=said.append)
    assert runner.tries and not runner.failures, "".join(said)
