"""Wrong arguments raise an error of tfstruct, and the built-in one that Keras users catch."""

import ast
import dataclasses
import json
import pathlib
import re

import numpy as np
import pytest

import tfstruct
from tfstruct import (
    arguments,
    augment,
    callbacks,
    compression,
    layers,
    masks,
    optimizers,
    quantize,
    regularizers,
    schedules,
)

ROOT = pathlib.Path(__file__).parents[1] / "tfstruct"
# They read files; whoever calls them makes a DataError or ModelError of it, with the name of the file.
READERS = (
    "convert/packing",
    "convert/file_bounds.py",
    "convert/file_notes.py",
    "convert/metadata",
    "convert/flatbuffer.py",
    "convert/stream_states.py",
    "streaming/plan.py",
    "untrusted/json_text.py",
    "untrusted/toml_text.py",
)
WRONG = {
    "a schedule": lambda: schedules.ConstantRatio(2),
    "a callback": lambda: callbacks.Prune(1.5),
    "another": lambda: callbacks.Cluster(1),
    "a budget": lambda: callbacks.PruneChannels("macs"),
    "a layer": lambda: layers.DropBlock2D(2.0),
    "a pattern": lambda: masks.Pattern.parse("4:2"),
    "an optimizer": lambda: optimizers.Momentum(beta=1.0),
    "a scheme": lambda: quantize.Scheme("int7"),
    "a regularizer": lambda: regularizers.GroupLasso(-1.0),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_a_wrong_value_is_both(call):
    with pytest.raises(ValueError, match=r"Received|must|knows") as caught:
        call()
    assert isinstance(caught.value, tfstruct.TfstructError)


NUMBERS = {
    "start of QuantizeAware": lambda value: callbacks.QuantizeAware(start=value),
    "freeze_ranges of QuantizeAware": lambda value: callbacks.QuantizeAware(freeze_ranges=value),
    "frequency of Prune": lambda value: callbacks.Prune(0.5, frequency=value),
    "regrow of Prune": lambda value: callbacks.Prune(0.5, regrow=value),
    "strength of PruneChannels": lambda value: callbacks.PruneChannels(0.5, strength=value),
    "frequency of PruneChannels": lambda value: callbacks.PruneChannels(0.5, frequency=value),
    "bits of Cluster": lambda value: callbacks.Cluster(bits=value),
    "lowest of LearningRateFinder": lambda value: callbacks.LearningRateFinder(lowest=value),
    "highest of LearningRateFinder": lambda value: callbacks.LearningRateFinder(highest=value),
    "smoothing of LearningRateFinder": lambda value: callbacks.LearningRateFinder(smoothing=value),
    "divergence of LearningRateFinder": lambda value: callbacks.LearningRateFinder(divergence=value),
    "frequency of Diagnose": lambda value: callbacks.Diagnose(frequency=value),
    "factor of AdaptiveBatchSize": lambda value: callbacks.AdaptiveBatchSize(8, 64, factor=value),
    "momentum of Scheme": lambda value: quantize.Scheme("int8", momentum=value),
    "decay of Scheme": lambda value: quantize.Scheme("int8", decay=value),
    "rate of DropBlock2D": layers.DropBlock2D,
    "beta of Momentum": lambda value: optimizers.Momentum(beta=value),
    "strength of GroupLasso": regularizers.GroupLasso,
    "ratio of ConstantRatio": schedules.ConstantRatio,
    "begin of PolynomialRatio": lambda value: schedules.PolynomialRatio(0.0, 0.5, value, 10),
    "decay_steps of LinearDecay": lambda value: schedules.LinearDecay(0.1, value),
}
JUNK = {"text": "much", "list": [1], "dict": {"a": 1}, "object": object(), "nan": float("nan"), "below": -1.5}


@pytest.mark.parametrize("call", NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize("value", JUNK.values(), ids=JUNK)
def test_what_is_no_such_number(call, value):
    with pytest.raises(tfstruct.TfstructError, match=r"must be|Expected"):
        call(value)


OTHERS = {
    "exclude of PruneChannels": lambda value: callbacks.PruneChannels(0.5, exclude=value),
    "scheme of QuantizeAware": callbacks.QuantizeAware,
    "strength of images": augment.images,
    "value_range of images": lambda value: augment.images(value_range=value),
    "scope of Prune": lambda value: callbacks.Prune(0.5, scope=value),
    "suggest of LearningRateFinder": lambda value: callbacks.LearningRateFinder(suggest=value),
}


@pytest.mark.parametrize("call", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("value", [3, 2.5, [1], {"a": 1}, object()], ids=["3", "2.5", "list", "dict", "object"])
def test_what_is_of_no_such_type(call, value):
    with pytest.raises(tfstruct.TfstructError, match=r"must be|Expected"):
        call(value)


def test_numbers_of_numpy_are_plain_ones_in_files():
    settings = compression.Settings(epochs=np.int64(3), learning_rate=np.float32(0.5))
    step = compression.steps.Quantize(epochs=np.int64(3))
    scheme = quantize.Scheme("int8", momentum=np.float32(0.5))
    assert json.loads(json.dumps(dataclasses.asdict(settings)))["epochs"] == 3
    assert compression.Step.from_dict(json.loads(json.dumps(step.to_dict()))) == step and step.epochs == 3
    assert quantize.Scheme.from_json(scheme.to_json()) == scheme
    assert type(compression.Search(trials=np.int64(2)).trials) is int


def test_bounds_in_words():
    for bounds, said in (
        ({}, "a finite number"),
        ({"least": 0}, "a finite number, 0 or larger"),
        ({"above": 1}, "a finite number above 1"),
        ({"least": 0, "below": 1}, r"a number in [0, 1)"),
        ({"above": 0, "most": 0.5}, r"a number in (0, 0.5]"),
        ({"most": 3}, r"a number in (-inf, 3]"),
    ):
        with pytest.raises(tfstruct.TfstructError, match=re.escape(f"`x` must be {said}. Received: 'a'.")):
            arguments.require_number("x", "a", **bounds)
    assert arguments.require_number("x", np.float32(0.5), least=0, below=1) == 0.5
    assert arguments.require_count("x", np.int64(3), 3, 3) == 3
    assert arguments.require_texts("x", "one") == ("one",) and arguments.require_texts("x", ["a", "b"]) == ("a", "b")
    for wrong in (True, 1.0, "1", None):
        assert not arguments.is_count(wrong)
    assert not arguments.is_number(True) and not arguments.is_number(float("nan")) and arguments.is_number(float("inf"))


def test_built_in_errors_are_raised_by_readers_only():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted(ROOT.rglob("*.py"))
        if not str(path.relative_to(ROOT)).startswith(READERS)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
        and node.exc.func.id in ("ValueError", "TypeError")
    ]
    assert found == []
