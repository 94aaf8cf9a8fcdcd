"""Finds layers in a model: their paths, their calls, and which of them a user means."""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence

import keras

from tfstruct.errors import ModelError
from tfstruct.graph import Call, Graph, open_and_trace, trace
from tfstruct.graph.opening.custom import is_custom
from tfstruct.graph.shuffle import Shuffle
from tfstruct.graph.trace import Body
from tfstruct.keras_internals.graph_nodes import Node, operation_of
from tfstruct.patterns import check_open_layers


@dataclasses.dataclass(frozen=True)
class Visit:
    """One call of a layer or nested model.

    Attributes:
        body: the (nested) model that calls it.
        node: holds its tensors: `node.arguments.keras_tensors` go in, `node.outputs` come out.
        step: the call, or the body of a nested model.
        last: whether the whole model hands out what it makes.
    """

    body: Body
    node: Node
    step: "Call | Body"
    last: bool

    @property
    def inputs(self) -> list:
        """The tensors that go in, each once."""
        return list({id(x): x for x in self.node.arguments.keras_tensors}.values())

    @property
    def outputs(self) -> list:
        return list(self.node.outputs)


@dataclasses.dataclass(frozen=True)
class Place:
    """A layer, operation or nested model, and every call of it.

    Attributes:
        path: its name, after those of the nested models it is in: `block/conv`.
    """

    op: keras.Operation
    path: str
    visits: tuple[Visit, ...]

    @property
    def kind(self) -> str:
        return type(self.op).__name__

    @property
    def calls(self) -> str:
        """Suffix for reports if a layer is called more than once."""
        count = len({id(visit.node) for visit in self.visits})
        return f" in each of its {count} calls" if count > 1 else ""


def graph_with(model: keras.Model, which, open_layers: str | bool) -> Graph:
    """The traced model, with custom layers opened where the layers that are meant may be inside of them.

    Not so where they are found as it is: a custom layer is itself meant, or all names are of other layers.

    Args:
        which: as for `Places.select`.
        open_layers: `"auto"`, or False: they stay closed.
    """
    check_open_layers(open_layers)
    graph = trace(model)
    try:
        chosen = Places(graph).select(which)
    except ModelError:
        chosen = []
    named = isinstance(which, (str, keras.Operation)) or not callable(which)
    if open_layers is False or (chosen and (named or any(_is_custom(place.op) for place in chosen))):
        return graph
    opened = open_and_trace(model, open_layers=open_layers)
    if chosen and {id(place.op) for place in Places(opened).select(which)} == {id(place.op) for place in chosen}:
        return graph  # it picks nothing inside
    return opened


def _is_custom(op: keras.Operation) -> bool:
    return isinstance(op, keras.layers.Layer) and is_custom(op)


class Places:
    """The layers of a traced model; finds them by path, by object or by a predicate."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.inputs: dict[str, keras.KerasTensor] = {}
        self._hidden: dict[str, Shuffle] = {}
        ends = {tensor.key for tensor in graph.outputs}
        found: dict[int, tuple[keras.Operation, str, list[Visit]]] = {}
        for body, node, step in _steps(graph.body):
            path = f"{body.path}{node.operation.name}"
            made = [x.key for x in (step.outputs if isinstance(step, Call) else _outputs(step))]
            visit = Visit(body, node, step, bool(ends & set(made)))
            if isinstance(node.operation, Shuffle):
                self._hidden.update({f"{body.path}{op.name}": node.operation for op in node.operation.steps})
                continue
            found.setdefault(id(node.operation), (node.operation, path, []))[2].append(visit)
        for body in graph.bodies.values():
            for x in body.functional.inputs:
                self.inputs[f"{body.path}{operation_of(x).name}"] = x
        self.all = {key: Place(op, path, tuple(visits)) for key, (op, path, visits) in found.items()}

    def find(self, which: "str | keras.Operation") -> Place:
        """Finds one layer, by path or object.

        Raises:
            ModelError: it is not in the model, is an input, or stands inside a channel shuffle.
        """
        name = self.graph.model.name
        if isinstance(which, str):
            named = [place for place in self.all.values() if place.path == which]
            if len(named) > 1:
                raise ModelError(f"{len(named)} layers of `{name}` are called {which}. Give the layer object.")
            if named:
                return named[0]
            shuffled, is_input = self._hidden.get(which), which in self.inputs
        elif isinstance(which, keras.Operation):
            if id(which) in self.all:
                return self.all[id(which)]
            shuffled = next((s for s in self._hidden.values() if any(op is which for op in s.steps)), None)
            is_input = any(operation_of(x) is which for x in self.inputs.values())
        else:
            raise ModelError(
                f"Expected a layer of `{name}`: its path such as 'conv' or 'block/conv', or the layer object. "
                f"Received: {type(which).__name__}."
            )
        label = which if isinstance(which, str) else which.name
        if is_input:
            raise ModelError(f"{label} is an input of the model: it can be neither deleted nor replaced.")
        if shuffled is not None:
            steps = ", ".join(op.name for op in shuffled.steps)
            raise ModelError(f"{label} is part of a channel shuffle ({steps}), which is one operation here.")
        raise ModelError(f"{self._unknown(which, label)}{self._suggestion(label)}")

    def select(self, which) -> list[Place]:
        """Finds one layer, several, or all that a predicate `layer -> bool` accepts, in their order."""
        if isinstance(which, str | keras.Operation):
            return [self.find(which)]
        if callable(which):
            layers = (place for place in self.all.values() if isinstance(place.op, keras.layers.Layer))
            chosen = [place for place in layers if which(place.op)]
            if not chosen:
                raise ModelError(f"The predicate picks none of the layers of `{self.graph.model.name}`.")
            return chosen
        if not isinstance(which, Iterable):
            return [self.find(which)]
        wanted = {id(place.op) for place in [self.find(one) for one in which]}
        if not wanted:
            raise ModelError("Expected at least one layer. Received an empty list.")
        return [place for key, place in self.all.items() if key in wanted]

    def names(self, body: Body) -> set[str]:
        """Names in use inside a (nested) model."""
        return {op.name for op in body.functional.operations}

    def _unknown(self, which, label: str) -> str:
        name = self.graph.model.name
        if isinstance(which, str):
            return f"`{name}` has no layer {label}."
        same = [place.path for place in self.all.values() if place.op.name == label]
        other = f" Another one of that name is, {same[0]}: give its path." if same else ""
        return f"The given {type(which).__name__} {label} is not in `{name}`.{other}"

    def _suggestion(self, label: str) -> str:
        paths = [place.path for place in self.all.values()]
        last = label.rsplit("/", 1)[-1]
        close = [path for path in paths if path.rsplit("/", 1)[-1] == last and path != label]
        close = close or difflib.get_close_matches(label, paths, 3, 0.5)
        return f" Did you mean {' or '.join(close[:3])}?" if close else ""


def _steps(body: Body) -> Iterator[tuple[Body, Node, "Call | Body"]]:
    """All steps; those of nested models follow their own."""
    for node, step in body.steps:
        yield body, node, step
        if isinstance(step, Body):
            yield from _steps(step)


def _outputs(body: Body) -> list:
    """The outputs of a nested model, as the `Channels` of its call."""
    known = {id(x): c for x, c in zip(body.functional.inputs, body.inputs, strict=True)}
    for node, step in body.steps:
        made = step.outputs if isinstance(step, Call) else _outputs(step)
        known.update({id(x): c for x, c in zip(node.outputs, made, strict=True)})
    return [known[id(x)] for x in body.functional.outputs]


def shown(shape: Sequence[int | None]) -> str:
    """A shape without its batch axis."""
    return "(" + ", ".join("?" if n is None else str(n) for n in tuple(shape)[1:]) + ")"


def replaced(change: Callable, args, kwargs) -> tuple[tuple, dict]:
    """A call's arguments with `change` applied to each tensor."""
    args, kwargs = keras.tree.map_structure(
        lambda x: change(x) if isinstance(x, keras.KerasTensor) else x, (tuple(args), dict(kwargs))
    )
    return args, kwargs
