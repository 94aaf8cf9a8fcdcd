"""The oracle itself: its references are what Keras computes while all channels stay, and it does find wrong rules."""

import graph_zoo
import keras
import numpy as np
import pytest
import zoo
from keras import layers, ops
from oracle import REFERENCES, assert_pruned_equals_masked, masked_outputs
from test_zoo import LOSSY, inputs_of

from tfstruct import graph as graphs
from tfstruct.graph.rules import registry


@pytest.mark.parametrize("name", sorted(LOSSY))
def test_references_agree_with_keras_while_all_channels_stay(name):
    model = zoo.randomise(graph_zoo.MODELS[name]())
    graph, x = graphs.trace(model), inputs_of(model)
    (expected,) = masked_outputs(graph, np.ones(graph.units.count, bool), x)
    np.testing.assert_allclose(expected, model(x), rtol=1e-4, atol=1e-5)


_OPERATIONS = {
    "mean": lambda x: ops.mean(x, axis=-1),
    "mean_of_all": lambda x: ops.mean(x, axis=(1, 2), keepdims=True),
    "max": lambda x: ops.max(x, axis=2, keepdims=True),
    "min": lambda x: ops.min(x, axis=-1),
    "amax": lambda x: ops.amax(x, axis=-1),
    "var": lambda x: ops.var(x, axis=-1),
    "std": lambda x: ops.std(x, axis=-1, keepdims=True),
    "prod": lambda x: ops.prod(x, axis=-1),
    "median": lambda x: ops.median(x, axis=-1),
    "logsumexp": lambda x: ops.logsumexp(x, axis=-1),
    "norm": lambda x: ops.norm(x, axis=-1),
    "norm_1": lambda x: ops.norm(x, ord=1, axis=-1, keepdims=True),
    "norm_inf": lambda x: ops.norm(x, ord=np.inf, axis=-1),
    "normalize": lambda x: ops.normalize(x, axis=-1),
    "normalize_1": lambda x: ops.normalize(x, axis=-1, order=1),
    "softmax": lambda x: ops.softmax(x, axis=-1),
    "softmax_space": lambda x: ops.softmax(x, axis=1),
    "log_softmax": lambda x: ops.log_softmax(x, axis=-1),
    "moments": lambda x: ops.concatenate(ops.moments(x, axes=[2], keepdims=True), axis=1),
}


@pytest.mark.parametrize("name", _OPERATIONS)
def test_references_of_operations(name):
    inputs = keras.Input((4, 5))
    x = _OPERATIONS[name](layers.Dense(8)(inputs))
    model = zoo.randomise(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x))))
    assert any(type(operation) in REFERENCES for operation in model.operations)
    graph, x = graphs.trace(model), inputs_of(model)
    (expected,) = masked_outputs(graph, np.ones(graph.units.count, bool), x)
    np.testing.assert_allclose(expected, model(x), rtol=1e-4, atol=1e-5)
    _, _, smaller = assert_pruned_equals_masked(model, 0.5, inputs=x)
    assert smaller.count_params() < model.count_params()


@pytest.mark.parametrize("kind, name", [(layers.Concatenate, "merge_concatenate"), (layers.ReLU, "nested_sequential")])
def test_a_rule_that_gets_the_order_wrong_is_found(kind, name, monkeypatch):
    right = registry._RULES[kind]

    def wrong(call):
        axes = right(call)
        return (*axes[:-1], axes[-1][::-1])

    monkeypatch.setitem(registry._RULES, kind, wrong)
    model = zoo.randomise(graph_zoo.MODELS[name]())
    with pytest.raises(AssertionError, match="differs by"):
        assert_pruned_equals_masked(model, 0.4, inputs=inputs_of(model))


def test_a_rule_that_forgets_to_unite_is_found(monkeypatch):
    monkeypatch.setitem(registry._RULES, layers.Add, lambda call: call.inputs[0].axes)
    model = zoo.randomise(graph_zoo.MODELS["residuals"]())
    with pytest.raises((AssertionError, ValueError)):
        assert_pruned_equals_masked(model, 0.4, inputs=inputs_of(model))
