"""What every test of a rule checks."""

import keras
import numpy as np
from oracle import assert_pruned_equals_masked
from zoo import randomise

from tfstruct import graph as graphs


def groups_of(model, name):
    """The groups that the layer (or `layer.kind`) makes: several where reshapes tie its channels into a grid."""
    return [g for g in graphs.groups(graphs.trace(model)) if name in g.makers]


def assert_shrinks(inputs, outputs, *names, share=0.4, x=None, lossy=False, tolerance=1e-5):
    """A model of these tensors: the groups of these names shrink, and the result equals the masked original."""
    model = randomise(keras.Model(inputs, outputs))
    for name in names:
        found = groups_of(model, name)
        assert any(g.prunable for g in found), f"{name}: {[g.reason for g in found]}"
        assert any(g.lossy for g in found) == lossy, f"{name}: {[g.lossy for g in found]}"
    if x is None:
        rng = np.random.default_rng(1)
        x = [rng.normal(size=(2, *(n or 5 for n in t.shape[1:]))).astype(t.dtype) for t in model.inputs]
        x = x if len(x) > 1 else x[0]
    graph, keep, smaller = assert_pruned_equals_masked(model, share=share, inputs=x, tolerance=tolerance)
    for name in names:
        assert any(not keep[g.units].all() for g in graphs.groups(graph) if name in g.makers), f"{name} stayed"
    assert smaller.count_params() < model.count_params() or not names
    return model, graph, smaller


def assert_held(inputs, outputs, name, reason):
    """The whole group of this name stays, for this reason; the model can still be made again."""
    (group,) = groups_of(keras.Model(inputs, outputs), name)
    assert not group.prunable
    assert reason in group.reason, group.reason
    return assert_shrinks(inputs, outputs)
