"""Channels at zero, without rebuilding, for as long as it takes to look."""

import contextlib

import numpy as np

from tfstruct.graph import Graph
from tfstruct.graph.call import Slot


def stays(slot: Slot, kept: np.ndarray) -> np.ndarray:
    """1 where a weight's entry belongs to channels that stay, 0 elsewhere; `kept` is boolean, by label. With numbers
    instead, the product of those of the channels that the entry belongs to."""
    mask = np.ones(slot.variable.shape)
    for axis, along in enumerate(slot.axes):
        if along is None or (slot.groups > 1 and axis == mask.ndim - 2):
            continue
        shape = [-1 if i == axis else 1 for i in range(mask.ndim)]
        mask = mask * kept[along.labels].reshape(shape)
    if slot.groups > 1 and slot.axes[-2] is not None:
        # Output channel o reads the input channels of its own group.
        came = kept[slot.axes[-2].labels].reshape(slot.groups, -1)
        mask = mask * np.repeat(came, mask.shape[-1] // slot.groups, axis=0).T
    return mask


@contextlib.contextmanager
def masked(graph: Graph, keep: np.ndarray):
    """While it is open, the weights of the channels that `keep` (boolean, by unit) lets go are zero: kernels that make
    them and that read them, biases, gamma, beta and moving means. Moving variances stay as they are."""
    kept = graph.units.kept(np.asarray(keep, bool))
    before = []
    try:
        for slot in graph.slots:
            if "variance" in slot.variable.name:
                continue
            mask = stays(slot, kept)
            if not mask.all():
                value = slot.variable.numpy()
                before.append((slot.variable, value))
                slot.variable.assign((value * mask).astype(value.dtype))
        yield
    finally:
        for variable, value in before:
            variable.assign(value)
