"""Budgets, candidates and reports: validated, compared by hand, and the same again after JSON."""

import dataclasses
import json

import pytest

from tfstruct.compression import Budget, Candidate, CompressionReport, Decision, Limits, Stage, Step
from tfstruct.errors import BudgetError, RecipeError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Halve(Step):
    kind = "halve"
    layers: tuple[str, ...] = ()


def candidate(name="plain int8", quality=0.84, **figures) -> Candidate:
    costs = {"params": 1000, "macs": 50_000, "tflite_bytes": 8000, "gzip_bytes": 6000, "latency_us": 40.0}
    return Candidate(name, "accuracy", quality, **{**costs, **figures})


def test_a_budget_as_text_as_a_dict_and_as_an_object():
    text = Budget.of("accuracy_drop=0.5%, macs=50%,tflite_bytes=56000, latency_us=0.6")
    assert text == Budget(accuracy_drop=0.005, macs=0.5, tflite_bytes=56_000, latency_us=0.6)
    assert text == Budget.of({"accuracy_drop": 0.005, "macs": 0.5, "tflite_bytes": 56_000, "latency_us": 0.6})
    assert Budget.of(text) is text
    assert str(text) == "accuracy_drop=0.005, macs=0.5, tflite_bytes=56,000, latency_us=0.6"
    assert Budget.from_dict(json.loads(text.to_json())) == text
    assert str(Budget()) == "as small as it goes"


@pytest.mark.parametrize(
    "given, said",
    [
        ("macs", "name=value"),
        ("macs=half", "number or a percentage. Received: 'half'"),
        ("macs=0.5,macs=0.4", "twice"),
        ("mac=0.5", "knows accuracy_drop, macs"),
        ({"macs": 0}, "`macs` in the budget must be above 0"),
        ({"macs": True}, "`macs` in the budget must be a number"),
        ({"accuracy_drop": 1}, r"`accuracy_drop` must be in \[0, 1\)"),
        ({"accuracy_drop": -0.1}, r"`accuracy_drop` must be in \[0, 1\)"),
        ({"latency_table": "board.json"}, "give `latency_us` too"),
        (0.5, "Received: 0.5"),
    ],
)
def test_a_budget_that_cannot_be_read(given, said):
    with pytest.raises(BudgetError, match=said):
        Budget.of(given)


def test_limits_in_absolute_figures():
    original = candidate("original", 0.9, params=1000, macs=60_000, tflite_bytes=20_000, latency_us=90)
    plain = candidate()
    limits = Budget(accuracy_drop=0.01, macs=0.5, tflite_bytes=0.5, latency_us=30, params=700).limits(original, plain)
    # Shares of the graph's figures are the original's, those of the file's the plain int8 file's.
    assert limits.figures == {"macs": 30_000, "params": 700, "tflite_bytes": 4000, "latency_us": 30}
    assert limits.quality == pytest.approx(0.89)
    good = candidate("small", 0.89, macs=30_000, params=700, tflite_bytes=4000, latency_us=30.0)
    assert limits.misses(good) == () and limits.excess(good) == 0.0
    bad = good.replace(quality=0.88, macs=45_000, tflite_bytes=4400)
    assert limits.misses(bad) == (
        "macs 45,000 (at most 30,000)",
        "tflite_bytes 4,400 (at most 4,000)",
        "accuracy 0.88 (at least 0.89)",
    )
    assert limits.excess(bad) == pytest.approx(0.5)
    assert limits.misses(good.replace(latency_us=None)) == ("latency_us is unknown",)
    with pytest.raises(BudgetError, match="`arena_bytes` of the original is unknown"):
        Budget(arena_bytes=0.5).limits(original, plain)
    assert Limits.from_dict(json.loads(json.dumps(limits.to_dict()))) == limits


def test_of_an_error_less_is_better_and_the_drop_is_relative():
    original = candidate("original", 0.2).replace(metric="loss", greater_is_better=False)
    limits = Budget(accuracy_drop=0.1).limits(original, candidate())
    assert limits.quality == pytest.approx(0.22)
    assert limits.good_enough(original.replace(quality=0.22)) and not limits.good_enough(original.replace(quality=0.23))
    assert original.better_than(original.replace(quality=0.21))


def test_steps_by_kind_and_as_data():
    step = Halve(reason="the budget asks for a half", epochs=3, layers=("a", "b"))
    assert str(step) == "halve(epochs=3, layers=('a', 'b'))"
    assert Step.from_dict(json.loads(json.dumps(step.to_dict()))) == step
    assert Step.of("halve") == Halve() and Step.of(step) is step
    with pytest.raises(RecipeError, match=r"A step must be one of .*halve.*Received: 'third'"):
        Step.of("third")
    with pytest.raises(RecipeError, match=r"halve has epochs, layers, optional, reason.*Received: depth"):
        Step.of({"kind": "halve", "depth": 1})
    with pytest.raises(RecipeError, match="`epochs` of halve must be a whole number"):
        Halve(epochs=-1)


def test_a_report_as_data_and_in_words():
    original = candidate("original", 0.9, tflite_bytes=20_000)
    result = candidate("halve", 0.89, macs=25_000, tflite_bytes=4000, scores={"recall": 0.88, "sqnr_db": float("inf")})
    step = Halve(reason="the budget asks for a half")
    budget = Budget(accuracy_drop=0.02, macs=0.5)
    report = CompressionReport(
        "net", budget, budget.limits(original, candidate()), original, candidate(), result.replace(strategy=(step,)),
        decisions=(Decision("share_layers", False, "no two layers are alike"),),
        stages=(Stage(step, (("conv", "32 -> 16 channels"),), (("head", "an output"),), result, ({"loss": 0.5},)),),
        candidates=(result,), widths={"conv": (32, 16)}, test={"original": 0.9, "plain": 0.89, "result": 0.88},
        warnings=("few samples",),
    )  # fmt: skip
    assert CompressionReport.from_json(report.to_json()) == report
    assert report.met and result.scores == {"recall": 0.88}
    said = str(report)
    assert "budget (accuracy_drop=0.02, macs=0.5) met" in said
    assert "does not share_layers: no two layers are alike" in said
    assert "halve(): the budget asks for a half" in said and "head: left alone, an output" in said
    assert [row[0] for row in report.rows()][:3] == ["accuracy, validation", "accuracy, test", "recall"]
    assert ("file, bytes", "20,000", "8,000", "4,000", "50.0%") in report.rows()
    assert report.table().row_count == len(report.rows())
