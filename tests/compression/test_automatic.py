"""When alternatives are measured, and when rules of thumb decide; the report says which, and why."""

import types

import pytest
from small_tasks import dense_task

from tfstruct.compression import Candidate, Settings, automatic
from tfstruct.compression.alternatives.alternative import Alternative, Part
from tfstruct.compression.automatic import automatic_strategy, unmeasured
from tfstruct.compression.budget import Limits
from tfstruct.compression.steps import PruneChannels, Quantize


def task_of(held_out=True, **limits):
    figures = {"params": 100, "tflite_bytes": 1000, "gzip_bytes": 800, "macs": 260, "peak_memory": 50}
    one = Candidate("one", "accuracy", 0.9, **figures)
    return types.SimpleNamespace(
        original=one, plain=one, limits=Limits(limits, None, "accuracy"), held_out=object() if held_out else None,
        measure=types.SimpleNamespace(reference_us=100.0), settings=Settings(epochs=20, batch_size=10),
        train=types.SimpleNamespace(steps=lambda batch_size: 2),
    )  # fmt: skip


@pytest.mark.parametrize(
    "task, why",
    [
        (task_of(macs=200), ""),
        (task_of(tflite_bytes=900), ""),
        (task_of(gzip_bytes=700), ""),
        (task_of(latency_us=60.0), ""),
        (task_of(), "limits no figure but the quality"),
        (task_of(macs=260, tflite_bytes=1000, latency_us=100.0), "plain int8 file is within the limits"),
        (task_of(held_out=False, macs=200), "too small to hold samples out"),
    ],
)
def test_when_alternatives_are_measured(task, why):
    assert (why in unmeasured(task)) and bool(why) == bool(unmeasured(task))


def test_how_they_are_measured(monkeypatch):
    bits = Part.of("bits of a", "quantize", [Alternative("4 bits", {"layer": "a", "precision": "int4"})], ["a"])
    width = Part.of("width of a", "prune_channels", [Alternative("8", {"layer": "a", "width": 8})], ["a"])
    asked = []

    def measured(task, **given):
        asked.append(given)
        steps = PruneChannels(widths={"a": 8}), Quantize(precision="int8")
        return types.SimpleNamespace(steps=steps, decisions=(), tried=None)

    monkeypatch.setattr(automatic, "measured_strategy", measured)
    monkeypatch.setattr(automatic, "parts_of", lambda task: (width, bits))
    task = task_of(macs=200)
    automatic_strategy(task)
    automatic_strategy(task, four_bits=False)
    assert asked == [{"steps": 4, "excluded": ()}, {"steps": 4, "excluded": [("bits of a", 1)]}]  # a tenth of 40 steps


def test_weights_of_4_bits_by_choice_are_tried_without_where_they_miss_the_budget():
    assert Quantize(precision="int8", layers={"a": "int4"}).uses_four_bits and Quantize(tflite_bytes=9).uses_four_bits
    assert not Quantize(precision="int8", layers={"a": "int16x8"}).uses_four_bits and not Quantize().uses_four_bits


def test_the_report_says_why_nothing_was_measured(process):
    with dense_task(process) as task:
        steps, why = automatic_strategy(task)
    assert [step.kind for step in steps] == ["optimize", "prune_channels", "quantize"]
    assert (why[0].kind, why[0].taken) == ("auto", False)
    assert why[0].reason.startswith(
        "alternatives are not measured, rules of thumb decide: the training data is too small"
    )
    assert "192 samples are enough" in why[0].reason
