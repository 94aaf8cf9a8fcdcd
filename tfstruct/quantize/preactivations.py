"""Statistics of what layers compute before their activation."""

import contextlib
from typing import Any

import numpy as np

from tfstruct.analyze.data_criteria import run
from tfstruct.graph import Graph
from tfstruct.graph.layer_tree import without_activation
from tfstruct.samples.for_model import samples_of


def moments(graph: Graph, data, ops: list, batch_size: int = 32) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Layer id -> mean and standard deviation of each channel before the layer's own activation.

    Channels are on the last axis, or where `data_format` or a batch norm's `axis` says; a shared layer's are over all
    its calls.
    """
    sums: dict[int, list[Any]] = {id(op): [0, 0.0, 0.0] for op in ops}

    def visit(call, outputs):
        if id(call.op) not in sums:
            return
        (z,) = outputs
        axis = channels_axis(call.op, len(z.shape))
        rows = np.moveaxis(np.asarray(z, np.float64), axis, -1).reshape(-1, z.shape[axis])
        total = sums[id(call.op)]
        total[0] += len(rows)
        total[1] += rows.sum(axis=0)
        total[2] += np.square(rows).sum(axis=0)
        if call.op in own:
            outputs[0] = own[call.op](z)

    with contextlib.ExitStack() as stack:
        taken_out = {op: stack.enter_context(without_activation(op)) for op in ops if getattr(op, "activation", None)}
        own = {op: activation for op, activation in taken_out.items() if activation is not None}
        for batch in samples_of(graph.model, data).batches(batch_size):
            run(graph, batch.inputs, visit, training=False)
    means = {key: (first / count, second / count) for key, (count, first, second) in sums.items()}
    return {key: (m, np.sqrt(np.maximum(square - m**2, 0.0))) for key, (m, square) in means.items()}


def channels_axis(op, rank: int) -> int:
    """The channel axis of a layer's output."""
    if getattr(op, "data_format", None) == "channels_first":
        return 1
    return getattr(op, "axis", -1) % rank
