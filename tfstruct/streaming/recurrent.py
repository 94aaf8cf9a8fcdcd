"""Recurrent layers: their states go from one call to the next."""

import numpy as np
from keras import layers, ops

from tfstruct.graph import in_order
from tfstruct.streaming.flow import Frames, Once, Unstreamable
from tfstruct.streaming.rules import Place, rule

# What follows the name of a layer in that of the product which sets its state to zero before the start.
KEPT = "kept"


@rule(*(kind for kind in vars(layers).values() if isinstance(kind, type) and issubclass(kind, layers.RNN)))
def recurrent(place: Place) -> object:
    """A layer that gives its last output gives it anew in each call: that of all frames so far."""
    op, flow = place.op, place.flow
    if len(in_order(place.args, place.kwargs)) > 1:
        raise Unstreamable("it starts from a state that the model computes")
    if op.go_backwards:
        raise Unstreamable("it reads the frames from the last to the first (go_backwards)")
    if place.frames.axis != 1:
        raise Unstreamable("its steps are not the frames")
    x = flow.multiple(place.frames, place.frames.chunk)
    started = flow.started_at_all(x) if flow.exact else None
    shapes = [np.shape(s)[1:] for s in _flat(op.get_initial_state(batch_size=1))]
    given = [flow.state(shape, op.compute_dtype, "state") for shape in shapes]
    for name, value in (("return_sequences", True), ("return_state", True), ("stateful", False)):
        place.call.set(name, lambda kept, value=value: value)
    states = [before for _, before in given]
    nested = isinstance(op.cell, layers.StackedRNNCells)
    sequence, *after = place.run(x.tensor, initial_state=_packed(states, op) if nested else states)
    after = _flat(after)
    for (name, before), new in zip(given, after, strict=True):
        kept = new
        if started is not None:
            ones = ops.reshape(started, (-1, *[1] * (len(new.shape) - 1)))
            kept = layers.Multiply(name=flow.name(KEPT), dtype=new.dtype)([ones, new])
        flow.keep(name, before, kept, "what the layer remembers")
    made = Frames(sequence, 1, x.chunk, x.lag, x.lag == 0)
    flow.add(made)
    last, delay, first = flow.last(made)
    out = sequence if op.return_sequences else flow.add(Once(last, delay, first))
    if not op.return_state:
        return out
    return [out, *(flow.add(Once(state, delay, first)) for state in after)]


def _flat(state) -> list:
    if isinstance(state, list | tuple):
        return [one for part in state for one in _flat(part)]
    return [state]


def _packed(states: list, op) -> list:
    """The states of stacked cells, cell by cell."""
    waiting = iter(states)
    return [
        [next(waiting) for _ in _flat_sizes(size)] if isinstance(size, list | tuple) else next(waiting)
        for size in op.cell.state_size
    ]


def _flat_sizes(size) -> list:
    return list(size) if isinstance(size, list | tuple) else [size]


@rule(layers.Bidirectional)
def bidirectional(place: Place) -> object:
    """Its backward half starts with the last frame."""
    raise Unstreamable(
        "its backward layer starts from the last frame, which a stream never reaches: train with the forward layer "
        f"alone, or let it look at the last window anew in each call, windows=[{place.call.path!r}]"
    )
