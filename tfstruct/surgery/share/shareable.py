"""Layers and nested models that can become one: equal type, configuration and weight shapes."""

import dataclasses

import keras
import numpy as np
from keras import layers

from tfstruct.graph import Graph
from tfstruct.graph.trace import Body

# What says nothing about what is computed from given weights.
_ASIDE = {"name", "seed", "shared_object_id", "build_config", "registered_name"}


@dataclasses.dataclass(frozen=True)
class PlacedLayer:
    """A layer or nested model.

    Attributes:
        path: its name, after those of the nested models it is in.
        where: the path of the model it is in, `""` or such as `"block/"`.
    """

    path: str
    where: str
    op: layers.Layer

    @property
    def parameters(self) -> int:
        return sum(int(np.prod(w.shape)) for w in self.op.weights)


def placed_layers(graph: Graph) -> dict[str, PlacedLayer]:
    """All layers and nested models by path, in order of execution, outer ones before their contents."""
    found: dict[str, PlacedLayer] = {}
    seen: set[int] = set()

    def walk(body: Body):
        if id(body.model) in seen:
            return
        seen.add(id(body.model))
        own = [step for _, step in body.steps]
        for step in own:
            op = step.model if isinstance(step, Body) else step.op
            if isinstance(op, layers.Layer):
                path = body.path + op.name
                found.setdefault(path, PlacedLayer(path, body.path, op))
        for step in own:
            if isinstance(step, Body):
                walk(step)

    walk(graph.body)
    return found


def unlike(a: PlacedLayer, b: PlacedLayer) -> str | None:
    """Reason why two layers cannot become one, or None."""
    if type(a.op) is not type(b.op):
        return f"`{a.path}` is a {type(a.op).__name__}, `{b.path}` a {type(b.op).__name__}"
    shapes = [[tuple(w.shape) for w in unit.op.weights] for unit in (a, b)]
    if shapes[0] != shapes[1]:
        return f"`{a.path}` has weights of shapes {shapes[0]}, `{b.path}` {shapes[1]}"
    if a.op.trainable != b.op.trainable:
        return f"of `{a.path}` and `{b.path}` only one is trainable"
    one, other = (configuration(unit.op) for unit in (a, b))
    if one == other:
        return None
    if isinstance(one, dict) and isinstance(other, dict) and not isinstance(a.op, keras.Model):
        key = next(key for key in {**one, **other} if one.get(key) != other.get(key))
        return f"`{a.path}` has {key}={_short(one.get(key))}, `{b.path}` {key}={_short(other.get(key))}"
    return f"`{a.path}` and `{b.path}` differ in {_first_difference(one, other)}"


def configuration(op):
    """A layer's configuration without names, seeds and initializers; the layers of a model by number instead of
    name."""
    try:
        return _canonical(op.get_config(), {})
    except NotImplementedError:
        return None


def _canonical(value, numbers: dict[str, int]):
    if isinstance(value, dict):
        if isinstance(value.get("layers"), (list, tuple)):
            names = [layer["config"].get("name") for layer in value["layers"] if isinstance(layer.get("config"), dict)]
            numbers = {name: i for i, name in enumerate(names)}
        result = {}
        for key, entry in value.items():
            if key in _ASIDE or key.endswith("_initializer"):
                continue
            if key == "dtype":
                result[key] = entry  # a policy's name is what it is
            elif key in ("keras_history", "input_layers", "output_layers"):
                result[key] = keras.tree.map_structure(lambda x: numbers.get(x, x) if isinstance(x, str) else x, entry)
            else:
                result[key] = _canonical(entry, numbers)
        return result
    if isinstance(value, (list, tuple)):
        return [_canonical(entry, numbers) for entry in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def _short(value) -> str:
    if isinstance(value, dict) and "class_name" in value:
        value = value["class_name"]
    return f"{value!r:.80}"


def _first_difference(a, b, path: str = "") -> str:
    """The first difference of two configurations: its path and both values."""
    if isinstance(a, dict) and isinstance(b, dict):
        key = next((key for key in {**a, **b} if a.get(key) != b.get(key)), None)
        if key is not None:
            return _first_difference(a.get(key), b.get(key), f"{path}.{key}".lstrip("."))
    if isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            return f"{path}: {len(a)} entries and {len(b)}"
        place = next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), None)
        if place is not None:
            return _first_difference(a[place], b[place], f"{path}[{place}]")
    return f"{path}: {_short(a)} and {_short(b)}"
