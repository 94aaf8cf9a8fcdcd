"""Deletes, inserts and replaces layers, also inside nested models; all shapes are checked before anything is built."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import keras

from tfstruct.arguments import checked
from tfstruct.errors import ModelError
from tfstruct.graph import in_order, rewire, trace
from tfstruct.graph.trace import Body
from tfstruct.keras_internals.graph_nodes import operation_of
from tfstruct.reporting import Result
from tfstruct.surgery.edit_report import edited
from tfstruct.surgery.layers.fitting import (
    changes_size,
    check_insertion,
    check_new,
    check_replacement,
    kind_of,
    understood,
)
from tfstruct.surgery.layers.places import Place, Places, Visit, graph_with, replaced, shown

# One layer by path or object, several of them, or a predicate.
Which: TypeAlias = str | keras.layers.Layer | Sequence[str | keras.layers.Layer] | Callable[[keras.layers.Layer], bool]


@checked
def delete_layer(model: keras.Model, layer: "str | keras.layers.Layer", *, open_layers: str | bool = "auto") -> Result:
    """Deletes a layer: its consumers read its input.

    Args:
        model: a Sequential or functional model, also nested; not changed.
        layer: its name, or path such as `block/conv` inside a nested model, or the layer object; also a nested model
            as a whole. A layer that is called several times goes from each place.
        open_layers: `"auto"`: custom layers are opened (`tfstruct.surgery.open_layers`) where the layer is inside one;
            False: none is.

    Returns:
        `Result`: `.model`, and the difference that it makes on random inputs.

    Raises:
        ModelError: the layer is not in the model; it is an input or makes an output of the model; its input and output
            differ in shape; it joins several inputs of that shape; or the model's graph cannot be walked.

    Example:
        >>> edited = tfstruct.surgery.delete_layer(convnet, "norm")
        >>> "norm" in [layer.name for layer in edited.model.layers]
        False
    """
    return delete_layers(model, [layer], open_layers=open_layers)


@checked
def delete_layers(model: keras.Model, which: Which, *, open_layers: str | bool = "auto") -> Result:
    """Deletes layers, all of them or none; see `delete_layer`.

    Of a join one input passes on if it alone has the shape of the output, such as the features that a squeeze-and-
    excitation block multiplies.

    Args:
        which: names, paths or layer objects; or a predicate `layer -> bool`, asked about every layer and nested model.
        open_layers: as for `delete_layer`; a predicate that picks a custom layer as it is means that one, another one
            is asked about the layers inside.

    Returns:
        `Edited`: `.model`, and the difference that it makes on random inputs.

    Raises:
        ModelError: as for `delete_layer`, naming all layers that cannot go; or the predicate picks none.

    Example:
        >>> is_norm = lambda layer: isinstance(layer, keras.layers.BatchNormalization)
        >>> edited = tfstruct.surgery.delete_layers(convnet, is_norm)
        >>> any(layer.name == "norm" for layer in edited.model.layers)
        False
    """
    graph = graph_with(model, which, open_layers)
    places = Places(graph)
    chosen = places.select(which)
    problems = [problem for place in chosen if (problem := _undeletable(place))]
    if problems:
        raise ModelError(" ".join(problems))
    _check_not_emptied(graph, chosen)
    rewired = rewire(graph, {id(place.op): _passing(place) for place in chosen})
    changes = [(place.path, _deleted(place)) for place in chosen]
    return edited(graph, rewired.model, changes, exact=False)


@checked
def insert_layer(
    model: keras.Model,
    new_layer: keras.layers.Layer,
    *,
    after: "str | keras.layers.Layer | None" = None,
    before: "str | keras.layers.Layer | None" = None,
    open_layers: str | bool = "auto",
) -> Result:
    """Inserts a layer behind another one, or in front of it.

    `after`: all that read the other's output read the new layer's. `before`: only the other one does. Next to a layer
    that is called several times, the new one is called as often, with the same weights.

    Args:
        model: a Sequential or functional model, also nested; not changed.
        new_layer: used in no model yet; its weights stay if it is built. It keeps the shape of what it gets.
        after, before: one of the two: a layer as in `delete_layer`; `after` also takes an input of the model.
        open_layers: as for `delete_layer`.

    Returns:
        `Result`: `.model`, and the difference that it makes on random inputs.

    Raises:
        ModelError: both or none of `after` and `before`; a layer that changes the shape, is used elsewhere, was built
            for other inputs or has a name that is taken; several tensors where one is needed.

    Example:
        >>> edited = tfstruct.surgery.insert_layer(model, keras.layers.Dropout(0.2, name="drop"), after="hidden")
        >>> [layer.name for layer in edited.model.layers]
        ['hidden', 'drop', 'scores']
    """
    if (after is None) == (before is None):
        raise ModelError("Expected one of `after` and `before`. Received: " + ("none." if after is None else "both."))
    graph = trace(model)
    if after is None or not _inputs_named(Places(graph), after):
        graph = graph_with(model, [after if after is not None else before], open_layers)
    places = Places(graph)
    if after is not None and (taken := _inputs_named(places, after)):
        return _behind_input(graph, places, new_layer, taken)
    place = places.find(after if after is not None else before)
    check_new(new_layer, places, _bodies(place))
    for visit in place.visits:
        tensors = visit.outputs if after is not None else visit.inputs
        side = "after" if after is not None else "before"
        if len(tensors) != 1:
            what = f"makes {len(tensors)} outputs" if after is not None else f"has {len(tensors)} inputs"
            hint = "before one of the layers that read them" if after is not None else "after one of those it reads"
            raise ModelError(f"{place.path} {what}, so {side} it is no single place. Insert {hint}.")
        check_insertion(new_layer, tensors[0], f"{side} {place.path}")

    def edit(step, run, *args, **kwargs):
        if after is not None:
            return new_layer(keras.tree.flatten(run(*args, **kwargs))[0])
        made = _once(new_layer)
        args, kwargs = replaced(made, args, kwargs)
        return run(*args, **kwargs)

    rewired = rewire(graph, {id(place.op): edit})
    where = f"{type(new_layer).__name__} inserted {'after' if after is not None else 'before'} {place.path}"
    ends = " as the model's output" if after is not None and any(v.last for v in place.visits) else ""
    return edited(graph, rewired.model, [(new_layer.name, f"{where}{place.calls}{ends}")], exact=False)


@checked
def replace_layer(
    model: keras.Model,
    layer: Which,
    new_layer: "keras.layers.Layer | Callable[[keras.layers.Layer], keras.layers.Layer]",
    *,
    open_layers: str | bool = "auto",
) -> Result:
    """Replaces a layer by another one, which is called on the same inputs.

    Args:
        model: a Sequential or functional model, also nested; not changed.
        layer: a layer as in `delete_layer`, several of them, or a predicate `layer -> bool`.
        new_layer: used in no model yet; its weights stay if it is built, and are new otherwise. For several layers: a
            function from the old layer to the new one. It may have the old one's name.
        open_layers: as for `delete_layers`.

    Returns:
        `Result`: `.model`, and the difference that it makes on random inputs.

    Raises:
        ModelError: the output's shape differs from the old one's; the new layer is used elsewhere, was built for other
            inputs or has a name that is taken; one layer object for several places; or as for `delete_layer`.

    Example:
        >>> edited = tfstruct.surgery.replace_layer(model, "scores", keras.layers.Dense(2, name="fresh"))
        >>> [layer.name for layer in edited.model.layers]
        ['hidden', 'fresh']
    """
    graph = graph_with(model, layer, open_layers)
    places = Places(graph)
    chosen = places.select(layer)
    single = isinstance(new_layer, keras.layers.Layer) or not callable(new_layer) or isinstance(new_layer, type)
    if single and len(chosen) > 1:
        paths = ", ".join(place.path for place in chosen)
        raise ModelError(
            f"{len(chosen)} layers are to be replaced ({paths}), but one new layer was given. Give a function from the "
            "old layer to a new one."
        )
    pairs: list[tuple[Place, keras.layers.Layer]]
    pairs = [(place, new_layer if single else new_layer(place.op)) for place in chosen]
    seen: dict[int, str] = {}
    names: set[tuple[int, str]] = set()
    for place, new in pairs:
        check_new(new, places, _bodies(place), freed=place.op.name)
        if id(new) in seen:
            raise ModelError(f"{seen[id(new)]} and {place.path} would share one new layer. Make one for each.")
        seen[id(new)] = place.path
        for body in _bodies(place):
            if (id(body.model), new.name) in names:
                raise ModelError(f"Two of the new layers are called {new.name}. Give each a name of its own.")
            names.add((id(body.model), new.name))
        for visit in place.visits:
            check_replacement(new, place, visit)
    edits = {id(place.op): _calling(new) for place, new in pairs}
    changes = [
        (place.path, f"{place.kind} replaced by {type(new).__name__}{_renamed(place, new)}{place.calls}")
        for place, new in pairs
    ]
    return edited(graph, rewire(graph, edits).model, changes, exact=False)


def _passing(place: Place):
    passed = {id(visit.step): _passed(visit) for visit in place.visits}
    return lambda step, run, *args, **kwargs: in_order(args, kwargs)[passed[id(step)]]


def _calling(new):
    return lambda step, run, *args, **kwargs: new(*args, **understood(new, kwargs))


def _once(layer):
    """Calls a layer at most once on each tensor."""
    made: dict[int, tuple] = {}

    def call(x):
        if id(x) not in made:
            made[id(x)] = (x, layer(x))
        return made[id(x)][1]

    return call


def _passed(visit: Visit) -> int:
    """Index of the input that replaces the output of a deleted call: the first of its shape."""
    (made,), tensors = visit.outputs, visit.node.arguments.keras_tensors
    return next(i for i, x in enumerate(tensors) if tuple(x.shape) == tuple(made.shape))


def _undeletable(place: Place) -> str | None:
    """Reason why a layer cannot be deleted, or None."""
    for visit in place.visits:
        if visit.last:
            return f"{place.path} makes an output of the model and cannot be deleted. Replace it."
        if len(visit.outputs) != 1:
            return f"{place.path} makes {len(visit.outputs)} outputs: which of them to replace is not clear."
        problem = _unlike(place, visit)
        if problem:
            return problem
    return None


def _unlike(place: Place, visit: Visit) -> str | None:
    (made,), tensors = visit.outputs, visit.inputs
    alike = [x for x in tensors if tuple(x.shape) == tuple(made.shape)]
    if len(tensors) > 1 and len(alike) > 1:
        return (
            f"{place.path} ({place.kind}) joins {len(alike)} inputs of shape {shown(made.shape)}: which of them passes "
            "on is not clear. Delete a branch with `drop_blocks`, or replace the layer."
        )
    shapes = (tensors[0].shape, made.shape) if len(tensors) == 1 else None
    if len(tensors) == 1:
        shapes = shapes if not alike else changes_size(place, visit)
        if shapes is not None:
            return (
                f"{place.path} ({place.kind}) cannot be deleted: its input has the shape {shown(shapes[0])}, its "
                f"output {shown(shapes[1])}. Replace it by a layer of that output."
            )
    elif not alike:
        came = ", ".join(shown(x.shape) for x in tensors)
        return (
            f"{place.path} ({place.kind}) cannot be deleted: none of its inputs [{came}] has the shape of its output, "
            f"{shown(made.shape)}."
        )
    if kind_of(alike[0]) != kind_of(made):
        return f"{place.path} ({place.kind}) cannot be deleted: it turns {alike[0].dtype} into {made.dtype}."
    return None


def _check_not_emptied(graph, chosen: list[Place]) -> None:
    gone = {id(place.op) for place in chosen}
    for body in graph.bodies.values():
        if id(body.model) not in gone and all(id(node.operation) in gone for node, _ in body.steps):
            raise ModelError(f"Nothing would be left of `{body.model.name}`. Delete it as a whole.")


def _deleted(place: Place) -> str:
    visit = place.visits[0]
    passed = "" if len(visit.inputs) == 1 else f"; {_source(visit)} passes on"
    return f"{place.kind} deleted{place.calls}{passed}"


def _source(visit: Visit) -> str:
    tensor = visit.node.arguments.keras_tensors[_passed(visit)]
    return f"the output of {operation_of(tensor).name}"


def _bodies(place: Place) -> list[Body]:
    return list({id(visit.body.model): visit.body for visit in place.visits}.values())


def _renamed(place: Place, new) -> str:
    return "" if new.name == place.op.name else f" {new.name}"


def _inputs_named(places: Places, which) -> str | None:
    """The path of the input that was named, if one was."""
    if not isinstance(which, str | keras.Operation):
        return None  # `Places.find` says what it must be
    return next((path for path, x in places.inputs.items() if which == path or which is operation_of(x)), None)


def _behind_input(graph, places: Places, new_layer, path: str) -> Result:
    tensor = places.inputs[path]
    body = next(b for b in graph.bodies.values() if any(x is tensor for x in b.functional.inputs))
    check_new(new_layer, places, [body])
    check_insertion(new_layer, tensor, f"after {path}")
    call = _once(new_layer)

    def reading(step, run, *args, **kwargs):
        now = in_order(args, kwargs)
        node = nodes[id(step)]
        changed = {id(new) for new, old in zip(now, node.arguments.keras_tensors, strict=True) if old is tensor}
        args, kwargs = replaced(lambda x: call(x) if id(x) in changed else x, args, kwargs)
        return run(*args, **kwargs)

    readers = [(node, step) for node, step in body.steps if any(x is tensor for x in node.arguments.keras_tensors)]
    nodes = {id(step): node for node, step in body.steps}
    edits = {id(node.operation): _only(reading, nodes) for node, _ in readers}
    change = (new_layer.name, f"{type(new_layer).__name__} inserted after {path}")
    return edited(graph, rewire(graph, edits).model, [change], exact=False)


def _only(edit, nodes):
    """Restricts an edit to the calls of one body; elsewhere the operation runs unchanged."""
    return lambda step, run, *a, **k: edit(step, run, *a, **k) if id(step) in nodes else run(*a, **k)
