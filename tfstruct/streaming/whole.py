"""The whole-sequence model on sequences of any length: what a streaming model is compared with.

Every operation runs as it is, on all frames at once. What looks at a window is run on each window that begins with a
hop; what gives the last of its outputs gives it for every hop.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from keras import layers

from tfstruct.graph.call import Call
from tfstruct.graph.configured import again
from tfstruct.graph.layer_tree import states_kept
from tfstruct.graph.trace import Body, Graph
from tfstruct.keras_internals.graph_nodes import inputs_and_masks
from tfstruct.keras_internals.operation_types import operations
from tfstruct.streaming.eager import computed
from tfstruct.streaming.flow import Flowing, Frames, Once
from tfstruct.streaming.rules import RESHAPES

# By id of a call: what the streaming model makes of its outputs.
Made = Mapping[int, Sequence[Flowing]]
_GET_ITEM = tuple(operations("GetItem"))


@dataclasses.dataclass(frozen=True)
class _Value:
    """Frames: an array of all frames, (1, ..., frames, ...). Else one entry a hop, the first of which ends with the
    frame `end` of the longest input; or no time at all, (1, ...), where `end` is None."""

    array: np.ndarray
    flow: Flowing
    end: int | None = None


class Whole:
    """Runs the original model.

    Args:
        graph: of it.
        made: what became of its calls.
        anew: ids of the calls that look at a window because the user says so.
        hop, frames: see `Flow`.
    """

    def __init__(self, graph: Graph, made: Made, anew: Collection[int], hop: int, frames: int | None):
        self._graph, self._made, self._anew, self._hop, self._frames = graph, made, anew, hop, frames

    def outputs(self, inputs: Sequence[np.ndarray], flows: Sequence[Flowing]) -> list[np.ndarray]:
        """The outputs of one sequence, in the model's order."""
        given = [_Value(np.asarray(x), flow) for x, flow in zip(inputs, flows, strict=True)]
        with states_kept(self._graph.model):
            return [x.array for x in self._body(self._graph.body, given)]

    def _body(self, body: Body, given: Sequence[_Value]) -> list[_Value]:
        known = {id(x): value for x, value in zip(body.functional.inputs, given, strict=True)}
        for node, step in body.steps:
            if isinstance(step, Body):
                tensors, _ = inputs_and_masks(node.input_tensors, step.functional)
                made = self._body(step, [known[id(x)] for x in tensors])
            else:
                made = self._call(step, [known[id(x)] for x in node.arguments.keras_tensors])
            known.update({id(x): y for x, y in zip(node.outputs, made, strict=True)})
        return [known[id(x)] for x in body.functional.outputs]

    def _call(self, call: Call, given: list[_Value]) -> list[_Value]:
        flows = self._made[id(call)]
        frames = given[0].flow if given else None
        if not any(isinstance(flow, Once) for flow in flows):
            run = _by_frames(call, given[0], flows[0]) if given else None
            made = _run(call, [x.array for x in given], run)
            return [_Value(x, flow) for x, flow in zip(made, flows, strict=True)]
        if isinstance(frames, Frames) and id(call) not in self._anew:
            if isinstance(call.op, layers.RNN):
                return self._recurrent(call, given[0].array, frames.chunk, flows)
            if _is_last(call, frames.axis) or call.inputs[0].shape[frames.axis] is None:
                return self._of_all_so_far(call, given[0].array, frames, flows)
        return self._of_windows(call, given, flows)

    def _of_windows(self, call: Call, given: list[_Value], flows: Sequence[Flowing]) -> list[_Value]:
        """One run on all windows, along the batch axis."""
        windows = [self._windows(x, channels.shape) for x, channels in zip(given, call.inputs, strict=True)]
        end = max(x.end for x in windows if x.end is not None)
        same = [
            x if x.end is None else dataclasses.replace(x, array=x.array[(end - x.end) // self._hop :]) for x in windows
        ]
        count = min(len(x.array) for x in same if x.end is not None)
        arrays = [np.repeat(x.array, count, 0) if x.end is None else x.array[:count] for x in same]
        return [_Value(x, flow, end) for x, flow in zip(_run(call, arrays), flows, strict=True)]

    def _windows(self, x: _Value, shape) -> _Value:
        """The windows of frames, along the batch axis."""
        if not isinstance(x.flow, Frames):
            return x
        axis, chunk, length = x.flow.axis, x.flow.chunk, shape[x.flow.axis]
        starts = range(0, x.array.shape[axis] - length + 1, chunk)
        found = [np.take(x.array, range(i, i + length), axis) for i in starts]
        frames = length * self._hop // chunk if self._frames is None else self._frames
        return _Value(np.concatenate(found), x.flow, frames - 1)

    def _of_all_so_far(self, call: Call, array: np.ndarray, x: Frames, flows: Sequence[Flowing]) -> list[_Value]:
        ends = range(x.chunk, array.shape[x.axis] + 1, x.chunk)
        made = [_run(call, [np.take(array, range(n), x.axis)]) for n in ends]
        arrays = [np.concatenate(parts) for parts in zip(*made, strict=True)]
        return [_Value(one, flow, self._hop - 1) for one, flow in zip(arrays, flows, strict=True)]

    def _recurrent(self, call: Call, array: np.ndarray, chunk: int, flows: Sequence[Flowing]) -> list[_Value]:
        """Run on the frames up to each hop; once where it has no states among its outputs."""
        if len(flows) == 1:
            layer = again(call.op, lambda config: {**config, "return_sequences": True, "stateful": False})
            layer(array)
            layer.set_weights(call.op.get_weights())
            outputs = np.asarray(layer(array, training=False))[0]
            return [_Value(outputs[chunk - 1 :: chunk], flows[0], self._hop - 1)]
        found = [_run(call, [array[:, :n]]) for n in range(chunk, array.shape[1] + 1, chunk)]
        made = []
        for i, flow in enumerate(flows):
            if isinstance(flow, Frames):
                made.append(_Value(found[-1][i], flow))
            else:
                made.append(_Value(np.concatenate([one[i] for one in found]), flow, self._hop - 1))
        return made


def _is_last(call: Call, axis: int) -> bool:
    """Whether it takes the newest frame."""
    if not isinstance(call.op, _GET_ITEM):
        return False
    key = call.node.arguments.args[1]
    return isinstance(key, tuple) and len(key) > axis and key[axis] == -1


def _by_frames(call: Call, x: _Value, made: Flowing):
    """A reshape says the number of frames, which is another one here."""
    if not isinstance(call.op, RESHAPES) or not isinstance(made, Frames) or not isinstance(x.flow, Frames):
        return None
    shape = list(call.shapes[0][1:])
    shape[made.axis - 1] = x.array.shape[x.flow.axis] * made.chunk // x.flow.chunk
    return layers.Reshape(tuple(shape))


def _run(call: Call, arrays: Sequence[np.ndarray], other=None) -> list[np.ndarray]:
    tensors = call.node.arguments.keras_tensors
    return computed(call, {id(x): a for x, a in zip(tensors, arrays, strict=True)}, other)
