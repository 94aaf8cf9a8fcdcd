"""From the graph of a model of whole sequences to the inputs, states and outputs of its streaming model."""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction

import keras
from keras import layers

from tfstruct.arguments import require_count
from tfstruct.errors import ArgumentError, ModelError
from tfstruct.graph import Graph, Replay
from tfstruct.keras_internals.graph_nodes import names_of
from tfstruct.samples.ports import unique_names
from tfstruct.streaming.calls import Calls, Known
from tfstruct.streaming.flow import Again, Flow, Flowing, Frames, NeedsHop, Once
from tfstruct.streaming.plan import StreamInput, StreamOutput, StreamPlan, StreamState


@dataclasses.dataclass(frozen=True)
class Built:
    """A streaming model, and how it came about.

    Attributes:
        model: with its weights.
        plan: how it is run.
        flow: what became of the tensors; its notes are remarks.
        made: by id of a call of the graph, what became of its outputs.
        anew: ids of those that look at a window because the user says so.
        inputs: what is known of the inputs, in the model's order.
    """

    model: keras.Model
    plan: StreamPlan
    flow: Flow
    made: Mapping[int, Sequence[Flowing]]
    anew: Collection[int]
    inputs: tuple[Flowing, ...]


def time_axes(model, frames: Collection[str] | None, given: int | Mapping[str, int]) -> dict[str, int | None]:
    """By input, where its frames are; None where it has none.

    Raises:
        ArgumentError: a name or axis that there is not.
    """
    inputs = getattr(model, "inputs", None) or []
    names = names_of(inputs)
    shapes = dict(zip(names, (tuple(x.shape) for x in inputs), strict=True))
    frames = None if frames is None else list(frames)
    if frames == []:
        raise ArgumentError(f"`frames` must name at least one input of `{model.name}`, of {names}. Received none.")
    for name in (*(frames or ()), *(given if isinstance(given, Mapping) else ())):
        if name not in shapes:
            raise ArgumentError(f"Expected names of inputs of `{model.name}`, of {names}. Received: {name!r}.")
    if frames is None:
        frames = [name for name, shape in shapes.items() if len(shape) > 2] or names
    axes: dict[str, int | None] = dict.fromkeys(names)
    for name in frames:
        axis = given.get(name, 1) if isinstance(given, Mapping) else given
        axis = require_count("time_axis", axis)
        if axis >= len(shapes[name]):
            raise ArgumentError(f"`time_axis` {axis} is none of the input {name!r} of shape {shapes[name]}.")
        axes[name] = axis
    return axes


def with_window(model, axes: Mapping[str, int | None], window: int | None) -> dict[str, tuple[int, ...]] | None:
    """The shapes of the inputs with as many frames as the window has; None leaves them as they are.

    Raises:
        ArgumentError: the model says how many frames it looks at, and they are others.
    """
    if window is None:
        return None
    shapes = {}
    for name, x in zip(names_of(model.inputs), model.inputs, strict=True):
        shape, axis = list(x.shape), axes[name]
        if axis is not None:
            if shape[axis] not in (None, window):
                raise ArgumentError(
                    f"`window` is {window}, but the input {name!r} has {shape[axis]} frames: leave it out."
                )
            shape[axis] = window
        shapes[name] = tuple(shape[1:])
    return shapes


def built(graph: Graph, axes: Mapping[str, int | None], hop: int | None, anew: Sequence[str], exact: bool) -> Built:
    """Builds it, again where something was found out on the way: how many frames a call needs, and a state holds.

    Raises:
        ModelError: an operation that cannot stream.
        ArgumentError: a hop that does not fit, or a pattern that names no layer.
    """
    _named_by_path(graph)
    lengths = [x.shape[axis] for x, axis in zip(graph.body.inputs, axes.values(), strict=True) if axis is not None]
    known_lengths = [n for n in lengths if n is not None]
    total = max(known_lengths) if known_lengths and len(known_lengths) == len(lengths) else None
    rates = [
        None if axis is None else Fraction(1) if total is None else Fraction(x.shape[axis] or total, total)
        for x, axis in zip(graph.body.inputs, axes.values(), strict=True)
    ]
    known: Known = {}
    reserve: dict[int, int] = {}
    least = math.lcm(*(rate.denominator for rate in rates if rate is not None))
    while True:
        flow = Flow(least, total, exact, reserve)
        try:
            made = _Building(graph, flow, axes, rates, anew, known)
        except NeedsHop as error:
            least, reserve = math.lcm(least, error.hop), {}
        except Again:
            pass
        else:
            if hop is None or hop == least:
                return made.finished()
            if hop % least:
                raise ArgumentError(
                    f"`hop` must be a multiple of {least}, by the strides of `{graph.model.name}`. Received: {hop}."
                )
            least, reserve = hop, {}


class _Building:
    def __init__(self, graph: Graph, flow: Flow, axes, rates, anew: Sequence[str], known: Known):
        self._graph, self._flow, self._axes = graph, flow, axes
        self._names = unique_names(list(axes))
        functional = graph.body.functional
        self.inputs = []
        for name, old, x, axis, rate in zip(
            self._names, functional.inputs, graph.body.inputs, axes.values(), rates, strict=True
        ):
            shape = list(x.shape)
            if axis is not None:
                shape[axis] = int(flow.hop * rate)
            if None in shape[1:]:
                raise ModelError(
                    f"The input {name!r} leaves sizes besides the frames open: {x.shape}. Give them: "
                    "x = keras.Input(shape); model = keras.Model(x, model(x))."
                )
            tensor = layers.InputLayer(batch_shape=tuple(shape), dtype=old.dtype, name=name).output
            if axis is not None:
                flow.frames_of(tensor, axis, shape[axis], 0, clean=True)
            self.inputs.append(tensor)
        self._calls = Calls(flow, anew, known)
        self._replay = Replay(graph, dict.fromkeys((id(call.op) for call in graph.calls), self._calls))
        self._outputs = self._replay.outputs(self.inputs)
        unknown = [pattern for pattern in anew if pattern not in self._calls.found]
        if unknown:
            raise ArgumentError(f"`windows` names no layer that gets frames: {', '.join(unknown)}.")
        settled = []
        for name, tensor in zip(unique_names(graph.output_names), self._outputs, strict=True):
            found = flow.of(tensor)
            flow.place = name
            settled.append(flow.settled(found).tensor if isinstance(found, Frames) else tensor)
        self._outputs = settled

    def finished(self) -> Built:
        """The model with its weights."""
        flow = self._flow
        names = unique_names(self._graph.output_names)
        outputs: dict[str, keras.KerasTensor] = {}
        for name, x in zip(names, self._outputs, strict=True):
            if any(x is other for other in (*self.inputs, *outputs.values())):
                found = flow.of(x)
                x = layers.Identity(name=f"{name}_again", dtype=x.dtype)(x)
                if found is not None:
                    flow.add(dataclasses.replace(found, tensor=x))
            outputs[name] = x
        states = {state.name: state.before for state in flow.states}
        after = {f"{state.name}_next": state.after for state in flow.states}
        model = keras.Model(
            {**dict(zip(self._names, self.inputs, strict=True)), **states}, {**outputs, **after},
            name=f"{self._graph.model.name}_streaming",
        )  # fmt: skip
        self._replay.copy_weights()
        inputs = tuple(
            StreamInput(name, tuple(x.shape[1:]), keras.backend.standardize_dtype(x.dtype), axis)
            for name, x, axis in zip(self._names, self.inputs, self._axes.values(), strict=True)
        )
        said = tuple(self._output(name, flow.of(x)) for name, x in outputs.items())
        held = tuple(
            StreamState(s.name, f"{s.name}_next", tuple(s.before.shape[1:]), s.before.dtype, s.what)
            for s in flow.states
        )
        flows = tuple(flow.of(x) for x in self.inputs)
        return Built(model, StreamPlan(flow.hop, inputs, said, held), flow, self._calls.made, self._calls.anew, flows)

    def _output(self, name: str, found: Flowing) -> StreamOutput:
        hop = self._flow.hop
        if found is None:
            return StreamOutput(name, None, 0, 0, 0)
        if isinstance(found, Once):
            return StreamOutput(name, None, found.first, max(found.delay, 0), (found.first + 1) * hop)
        delay = Fraction(found.lag * hop, found.chunk)
        return StreamOutput(name, found.axis, found.lag, math.ceil(delay), (found.lag // found.chunk + 1) * hop)


def _named_by_path(graph: Graph) -> None:
    """What is in nested models gets the names of those before its own: all stand in one model."""
    for call in graph.calls:
        if "/" in call.path:
            name = call.path.replace("/", "_")
            call.set("name", lambda kept, name=name: name)
