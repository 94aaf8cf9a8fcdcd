"""Opened layers as layers of their own class again, with other arguments where their weights have other shapes."""

import dataclasses
import itertools
import json
import warnings
from collections.abc import Callable

import keras

from tfstruct.graph.keras_model import require_model
from tfstruct.graph.new_shapes import any_initializer
from tfstruct.graph.opening.arguments import Path, Shapes, fitting, with_numbers
from tfstruct.graph.opening.equality import unequal
from tfstruct.graph.opening.known_sizes import KnownSizes
from tfstruct.graph.opening.loops import OpenedCell
from tfstruct.graph.opening.origin import Opened, Origin, called_again, weights_of
from tfstruct.graph.opening.recording import reason_of
from tfstruct.graph.rebuild import in_order, rewire
from tfstruct.graph.trace import Body, trace

_COMPARED = 8  # how many sets of arguments that make the right shapes are tried by their values

# From an opened layer's class and configuration to the class; or why it is not at hand.
Classes = Callable[[Origin, object], "type[keras.layers.Layer] | str"]


@dataclasses.dataclass(frozen=True)
class ClosedModel:
    """A model whose opened layers are of their own classes again.

    Attributes:
        model: functional, uncompiled.
        closed: path of a layer -> its changed arguments, by name: (before, now).
        kept: path of a layer that stays opened -> why.
    """

    model: keras.Model
    closed: dict[str, dict[str, tuple[int, int]]]
    kept: dict[str, str]


def close_model(model: keras.Model, class_of: Classes) -> ClosedModel:
    """Closes every opened layer that can be, the outermost first; see `surgery.close_layers`."""
    require_model(model)
    graph = trace(model)
    closed: dict[str, dict[str, tuple[int, int]]] = {}
    kept: dict[str, str] = {}
    edits: dict[int, Callable] = {}
    seen: set[int] = set()

    def visit(body: Body) -> None:
        for _, step in body.steps:
            if not isinstance(step, Body):
                cell = getattr(step.op, "cell", None)
                if isinstance(cell, OpenedCell):
                    kept[f"{step.path}/{cell.name}"] = "the cell of a loop stays opened"
                continue
            if id(step.model) in seen:
                continue
            seen.add(id(step.model))
            path = step.path.rstrip("/")
            if isinstance(step.model, Opened) and step.model.origin is not None:
                found = _closed(step.model, class_of)
                if not isinstance(found, str):
                    layer, closed[path] = found
                    edits[id(step.model)] = _edit(layer, step.model.origin)
                    continue
                kept[path] = found
            visit(step)

    visit(graph.body)
    with any_initializer():
        made = rewire(graph, edits)
    return ClosedModel(made.model, closed, kept)


def _edit(layer: keras.layers.Layer, origin: Origin):
    def edit(step, run, *args, **kwargs):
        return called_again(layer, origin, in_order(args, kwargs))

    return edit


def _closed(model: Opened, class_of: Classes) -> "tuple[keras.layers.Layer, dict[str, tuple[int, int]]] | str":
    """A layer that computes what an opened one does, and its changed arguments; or why there is none."""
    origin = model.origin
    assert origin is not None
    if origin.unknown:
        return origin.unknown
    if len(model.inputs) != len(origin.inputs) or len(model.outputs) != len(origin.results):
        return "it has other inputs or outputs than before"
    weights = weights_of(model, origin)
    if weights is None or len({id(w) for w in model.weights}) != len(weights):
        return "its layers are not those of before"
    config = json.loads(origin.config)
    kind = class_of(origin, config)
    if isinstance(kind, str):
        return kind
    wanted = tuple(tuple(w.shape) for w in weights)
    why: list[str] = []

    def shapes(changed, now: bool) -> Shapes | None:
        specs = [(x.shape, x.dtype) for x in model.inputs] if now else origin.inputs
        try:
            with any_initializer(), warnings.catch_warnings(action="ignore"):
                layer = _made(kind, changed)
                called_again(layer, origin, _inputs(specs))
        except Exception as error:  # a user's code may raise anything
            why.append(reason_of(error))
            return None
        return tuple(tuple(w.shape) for w in layer.weights)

    said = ""
    for numbers in itertools.islice(fitting(config, origin.shapes, wanted, shapes), _COMPARED):
        layer = _made(kind, with_numbers(config, numbers))
        try:
            said = _differs(model, layer, weights) or ""
        except Exception as error:
            said = reason_of(error)
        if not said:
            return layer, {_name(path): (_at(config, path), value) for path, value in numbers.items()}
    if said:
        return f"made again by its class, {said}"
    others = [
        f"{name} {tuple(now)}" for name, was, now in zip(origin.names, origin.shapes, wanted, strict=True) if was != now
    ]
    failed = f": {why[0]}" if why and not others else ""
    sizes = ", ".join(others[:3]) or "as before"
    return f"no arguments of {origin.class_name} make weights of its sizes ({sizes}){failed}"


def _made(kind: type[keras.layers.Layer], config) -> keras.layers.Layer:
    return kind.from_config(_unbuilt(config))


def _unbuilt(config):
    """A configuration that does not say for which shapes its layers were built."""
    if isinstance(config, dict):
        return {key: _unbuilt(value) for key, value in config.items() if key != "build_config"}
    return [_unbuilt(value) for value in config] if isinstance(config, list) else config


def _inputs(specs) -> list[keras.KerasTensor]:
    return [keras.Input(batch_shape=shape, dtype=dtype) for shape, dtype in specs]


def _differs(model: Opened, layer: keras.layers.Layer, weights: list[keras.Variable]) -> str:
    """Gives a layer the weights of an opened one; then in what the two differ."""
    assert model.origin is not None
    inputs = _inputs([(x.shape, x.dtype) for x in model.inputs])
    outputs = called_again(layer, model.origin, list(inputs))
    for new, old in zip(layer.weights, weights, strict=True):
        new.assign(old)
        new.trainable = old.trainable
    layer.trainable = model.trainable
    alone = keras.Model(inputs, outputs, name=model.name)
    twins = {id(old): new for old, new in zip(weights, layer.weights, strict=True)}
    structure = [keras.KerasTensor(x.shape, x.dtype) for x in model.inputs]
    return unequal(model, alone, KnownSizes(structure, True).known(2), lambda variable: twins[id(variable)])


def _at(config, path: Path):
    for key in path:
        config = config[key]
    return config


def _name(path: Path) -> str:
    return ".".join(str(key) for key in path if key != "config")
