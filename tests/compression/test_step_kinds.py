"""A kind of step is one file: strategies, searches and working folders find it there."""

import json
import sys

import numpy as np
import pytest
from small_tasks import dense_task

from tfstruct.compression import Space, carry_out, steps
from tfstruct.compression.steps import step as kinds_of_steps
from tfstruct.compression.strategy import decide
from tfstruct.errors import RecipeError

SPACE = Space(whole=10_000, blocks=3, energies=(1.0, 0.9), factorized=("a",), precisions=("int8", "int4"))

DIVIDE = """
import dataclasses

from tfstruct.compression.decision import Decision
from tfstruct.compression.outcome import Outcome
from tfstruct.compression.steps.step import Choices, Proposal, Step
from tfstruct.graph.copying import copied


@dataclasses.dataclass(frozen=True)
class Divisions(Choices):
    place = 50

    divisions: int = 2

    @classmethod
    def of(cls, task):
        return cls(len(task.model.layers))

    @property
    def distributions(self):
        from optuna.distributions import IntDistribution

        return {"divisions": IntDistribution(0, self.divisions)}

    def steps(self, point):
        return (Divide(times=point["divisions"]),) if point.get("divisions") else ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Divide(Step):
    kind = "divide"
    place = 3
    choices = Divisions

    times: int = 1

    @classmethod
    def propose(cls, outlook):
        why = f"{len(outlook.wanted)} figure"
        return Proposal((cls(reason=why),), (Decision(cls.kind, True, why),))

    def completed(self, sizing):
        return self.replace(reason=sizing().reason)

    def run(self, context):
        model = copied(context.model)
        model.set_weights([w / 2**self.times for w in model.get_weights()])
        return Outcome(model, [(model.name, "divided")])
"""


@pytest.fixture
def divide(tmp_path, monkeypatch):
    (tmp_path / "dividing.py").write_text(DIVIDE)
    monkeypatch.setattr(steps, "__path__", [*steps.__path__, str(tmp_path)])
    yield
    kinds_of_steps._KINDS.pop("divide", None)
    sys.modules.pop("tfstruct.compression.steps.dividing", None)


@pytest.fixture(scope="module")
def task(process):
    with dense_task(process) as one:
        yield one


def test_one_file_is_a_kind_of_step(divide, task, tmp_path):
    plan, why = decide(task)
    assert [step.kind for step in plan] == ["optimize", "divide", "prune_channels", "quantize"]
    assert [one.kind for one in why if one.taken] == [step.kind for step in plan]
    assert plan[1].reason == "1 figure"
    assert decide(task, [steps.Divide()])[0][0].reason.startswith("channels go at once until macs")
    space = Space.of(task)
    assert space.divisions == 3 and "divisions" in space.distributions
    point = {"divisions": 2, "channels": 1.0, "precision": "int8"}
    chosen = space.steps(point)
    assert chosen == (steps.Optimize(), steps.Divide(times=2), steps.Quantize(precision="int8"))
    assert steps.Step.of("divide") == steps.Divide() and "Divide" in dir(steps)
    assert [steps.Step.from_dict(json.loads(json.dumps(step.to_dict()))) for step in chosen] == [*chosen]
    made = carry_out(task, chosen, task.folder.inner("divided"))
    stage = made.stages[1]
    assert stage.step == chosen[1].replace(epochs=0) and stage.changes == ((task.model.name, "divided"),)
    expected = [w / 4 for w in task.model.get_weights()]
    for got, want in zip(made.model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_a_kind_that_is_gone_is_said(task):
    with pytest.raises(AttributeError, match="no attribute 'Divide'"):
        _ = steps.Divide
    with pytest.raises(RecipeError, match="A step must be one of optimize, downsample_early, drop_blocks"):
        steps.Step.of("divide")
    with pytest.raises(RecipeError, match=r"A space has early, .*precisions\. Received: divisions\."):
        Space(divisions=2)


def test_what_a_search_on_disk_is_known_by_stays():
    """The name of a study is made of this text: another one would begin the search anew."""
    assert repr(SPACE) == (
        "Space(channels=(0.15, 1.0), whole=10000, figure='macs', multiples=(1, 4, 8), gradual=True, early=False, "
        "blocks=3, energies=(1.0, 0.9), factorized=('a',), methods=('svd',), precisions=('int8', 'int4'))"
    )


def test_what_a_strategy_on_disk_is_written_as_stays():
    data = [
        {"kind": "optimize", "fold": True, "reason": "", "epochs": None, "optional": False},
        {"kind": "drop_blocks", "count": 2, "blocks": None, "criterion": "cosine", "reason": "r", "epochs": 1},
        {"kind": "downsample_early", "layer": "stem"},
        {"kind": "share_layers", "groups": [["a", "b"]], "threshold": 0.9, "how": "mean"},
        {"kind": "factorize", "layers": ["a"], "energy": 0.9, "rank": {"a": [3, 4]}, "method": "svd"},
        {"kind": "prune_channels", "budget": {"macs": 0.5}, "gradual": True, "round_to": 8, "ramp": 0.3, "rate": 1e-3},
        {"kind": "quantize", "precision": "int8", "layers": {"stem": "int4"}, "tflite_bytes": 900.0, "rate": None},
    ]
    for one in data:
        step = steps.Step.from_dict(one)
        assert json.loads(json.dumps(step.to_dict())).items() >= one.items()
