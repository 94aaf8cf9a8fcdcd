"""From recordings on two sets of sizes to a functional model with open sizes."""

import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfstruct.graph.opening.comparison import equal, name_of, same
from tfstruct.graph.opening.loops import opened_loop
from tfstruct.graph.opening.origin import Opened, origin_of
from tfstruct.graph.opening.parts import Constant, Masked, Sized, Weight
from tfstruct.graph.opening.recording import Loop, RecordedCall, Recording, reason_of
from tfstruct.graph.trace import functional_of
from tfstruct.keras_internals.graph_nodes import mask_of, set_mask
from tfstruct.keras_internals.layer_parts import all_layers
from tfstruct.keras_internals.recorded_calls import computed_by, operations_between, set_spec

# Operations whose sizes may be read off other tensors: the attribute that holds them, and the kind of `Sized`.
_SIZED = {
    "Reshape": ("newshape", "reshape"),
    "BroadcastTo": ("shape", "broadcast_to"),
    "Tile": ("repeats", "tile"),
    "Slice": ("shape", "slice"),
}


class DiffersError(Exception):
    """A layer does something that no graph with open sizes says; the message is the reason."""

    def __init__(self, layer: keras.layers.Layer, reason: str):
        super().__init__(reason)
        self.layer = layer


class Assembly:
    """Builds the models of one opening; a layer that is called several times on equal shapes is built once.

    Keras loads a layer that two nested models share as two: a weight that several of them read is given out once, by
    the whole model, and handed on to them as one more input.
    """

    def __init__(self):
        self._nested: list[tuple[Recording, Recording, list[tuple], keras.Model, list[int]]] = []
        self._loops: dict[tuple[int, int], keras.layers.RNN] = {}
        self._handed_on: set[int] = set()  # id of the `Weight`s that several models read

    def model(self, pair: tuple[Recording, Recording], like: list[keras.KerasTensor], structure) -> keras.Model:
        """The whole model.

        Args:
            pair: the recordings of two sizes.
            like: tensors with the names, open shapes and dtypes of the inputs.
            structure: the tensors of `like` in the structure in which the model takes them.
        """
        first = pair[0]
        self._handed_on = _read_by_several(first)
        shapes = [tuple(x.shape) for x in like]
        inputs, _, results, live = self._replayed(pair, shapes, [x.name for x in like])
        if len(live) != len(like):
            raise DiffersError(first.layer, "it does not use all of its inputs")
        by = dict(zip(map(id, first.results), results, strict=True))
        outputs = keras.tree.map_structure(lambda x: by[id(x)], first.outputs)
        return keras.Model(keras.tree.pack_sequence_as(structure, inputs), outputs, name=first.layer.name)

    def _shared_weights(self, recording: Any) -> list[Weight]:
        """Those that are handed on to what a recording becomes, or to models within."""
        found: dict[int, Weight] = {}
        for one in recording.all_within():
            for call in one.needed():
                if isinstance(call.operation, Weight) and id(call.operation) in self._handed_on:
                    found[id(call.operation)] = call.operation
        return list(found.values())

    def _replayed(self, pair, shapes, names=None) -> tuple[list, list, list, list[int]]:
        """(symbolic inputs, those of weights, results, which of the recorded inputs are read)."""
        first, second = pair
        calls, others = first.needed(), second.needed()
        if len(calls) != len(others):
            raise DiffersError(first.layer, "it computes other operations for other sizes")
        read = {id(x) for call in calls for x in call.inputs} | {id(x) for x in first.results}
        live = [i for i, x in enumerate(first.inputs) if id(x) in read]
        if not live:
            raise DiffersError(first.layer, "what it returns does not depend on its inputs")
        inputs = {
            i: keras.Input(batch_shape=shapes[i], dtype=first.inputs[i].dtype, name=names[i] if names else None)
            for i in live
        }
        anchor = inputs[live[0]]
        shared = self._shared_weights(first)
        if names:  # the whole model
            given = {id(part): part(anchor) for part in shared}
        else:
            specs = {id(part): part.compute_output_spec(anchor) for part in shared}
            given = {key: keras.Input(batch_shape=x.shape, dtype=x.dtype) for key, x in specs.items()}
        by = {id(first.inputs[i]): x for i, x in inputs.items()}
        for i, x in enumerate(first.inputs):
            mask = mask_of(x)
            if i in inputs and id(mask) in by:
                set_mask(by[id(x)], by[id(mask)])
        for call, other in zip(calls, others, strict=True):
            if id(call.operation) in given:
                outputs = [given[id(call.operation)]]
            elif isinstance(call.operation, Recording) and isinstance(other.operation, Recording):
                outputs = self._called(first, call, other, by, given)
            elif isinstance(call.operation, Loop) and isinstance(other.operation, Loop):
                outputs = self._looped(first, call, (call.operation, other.operation), by)
            else:
                outputs = keras.tree.flatten(self._repeated(pair, call, other, by, inputs))
            for before, after, output in zip(call.outputs, other.outputs, outputs, strict=True):
                _fill_in_sizes(output, before, after)
            by.update(zip(map(id, call.outputs), outputs, strict=True))
        results = []
        for x in first.results:
            result, mask = by[id(x)], first.masks.get(id(x))
            if any(result is one for one in (*inputs.values(), *given.values())):
                result = keras.layers.Identity()(result)  # an output is made by an operation
            results.append(result if mask is None else Masked()([result, by[id(mask)]]))
        weights = [] if names else list(given.values())
        _check_names(first.layer, [*inputs.values(), *weights], results)
        return list(inputs.values()), weights, results, live

    def _repeated(self, pair, call: RecordedCall, other: RecordedCall, by, inputs):
        layer = pair[0].layer
        operation: Any = call.operation
        if isinstance(operation, Recording) or type(operation) is not type(other.operation):
            raise DiffersError(layer, f"it computes {name_of(call)} for one size and {name_of(other)} for another")
        args, kwargs = _filled(layer, call, by)
        if isinstance(operation, (Weight, Constant)):
            its = other.operation
            if isinstance(operation, Constant) and isinstance(its, Constant) and not same(operation.array, its.array):
                raise DiffersError(layer, "a constant in it depends on sizes")
            return _run(layer, operation, (next(iter(inputs.values())),), {})
        if not same(call.args, other.args) or not same(call.kwargs, other.kwargs):
            if type(operation).__name__ == "GetItem":
                return self._cut(pair, call, other, args[0], inputs)
            args, kwargs = _rows(layer, call, other, args, kwargs)
        if type(operation) is keras.layers.Identity:
            return args[0]
        if isinstance(operation, keras.layers.Layer):
            return _run(layer, operation, args, kwargs)
        mine, others = computed_by(operation), computed_by(other.operation)
        differing = [name for name, value in mine.items() if not same(value, others.get(name))]
        if not differing:
            return _run(layer, operation, args, kwargs)
        attribute, kind = _SIZED.get(type(operation).__name__, ("", ""))
        sizes = list(zip(call.outputs[0].shape, other.outputs[0].shape, strict=True))
        if differing == ["repeats"] and _widens_ones(call):
            return self._sized(pair, "broadcast_to", args[0], sizes, inputs)
        if differing != [attribute]:
            raise DiffersError(layer, f"{name_of(call)} in it depends on sizes")
        if kind == "reshape":
            if sum(a != b for a, b in sizes) == 1:
                return keras.ops.reshape(args[0], [a if a == b else -1 for a, b in sizes])
        else:
            sizes = list(zip(tuple(mine[attribute]), tuple(others[attribute]), strict=True))
        if kind == "slice" and np.any(np.asarray(args[1])):
            raise DiffersError(layer, "it cuts a part that begins where sizes say")
        return self._sized(pair, kind, args[0], sizes, inputs)

    def _cut(self, pair, call: RecordedCall, other: RecordedCall, x, inputs):
        """`x[:n]`, where n is a size."""
        key = call.args[1] if len(call.args) > 1 else call.kwargs["key"]
        parts = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(part, slice) and part.start in (None, 0) and part.step in (None, 1) for part in parts):
            raise DiffersError(pair[0].layer, "it indexes with something that depends on sizes")
        return self._sized(
            pair, "slice", x, list(zip(call.outputs[0].shape, other.outputs[0].shape, strict=True)), inputs
        )

    def _sized(self, pair, kind: str, x, sizes: list[tuple[int, int]], inputs):
        """The operation with sizes read off the inputs where two recordings differ in them."""
        first, second = pair
        found: list = []
        likes: list = []
        for a, b in sizes:
            if a == b:
                found.append(int(a))
                continue
            place = next(
                (
                    (i, axis)
                    for i, given in inputs.items()
                    for axis in range(len(given.shape))
                    if (first.inputs[i].shape[axis], second.inputs[i].shape[axis]) == (a, b)
                ),
                None,
            )
            if place is None:
                raise DiffersError(first.layer, f"a size in it ({a} or {b}) is no axis of its inputs")
            found.append([len(likes), place[1]])
            likes.append(inputs[place[0]])
        return Sized(kind, found)(x, *likes)

    def _called(self, outer: Recording, call: RecordedCall, other: RecordedCall, by, given):
        """A call of the nested model that a recording becomes."""
        recording = call.operation
        args, _ = _filled(outer.layer, call, by)
        model, live = self._nested_model(outer, recording, other.operation, [tuple(x.shape) for x in args])
        weights = [given[id(part)] for part in self._shared_weights(recording)]
        return keras.tree.flatten(model([*(args[i] for i in live), *weights]))

    def _looped(self, outer: Recording, call: RecordedCall, loops: tuple[Loop, Loop], by):
        """A call of the layer around the model that a cell becomes."""
        loop, recording = loops[0], loops[0].recording
        args, kwargs = _filled(outer.layer, call, by)
        if self._shared_weights(recording):
            raise DiffersError(recording.layer, "it has a weight that other layers read too")
        shapes = [(None, *x.shape[1:]) for x in recording.inputs]
        model, live = self._nested_model(outer, recording, loops[1].recording, shapes)
        if len(live) != len(shapes):
            raise DiffersError(recording.layer, "it does not use its input and all of its states")
        if (id(loop.layer), id(model)) not in self._loops:
            places = {id(x): i for i, x in enumerate(recording.results)}
            order = [places[id(x)] for x in keras.tree.flatten(recording.outputs)]
            self._loops[id(loop.layer), id(model)] = opened_loop(loop.layer, model, order)
        return keras.tree.flatten(_run(outer.layer, self._loops[id(loop.layer), id(model)], args, kwargs))

    def _nested_model(self, outer: Recording, recording, other, shapes) -> tuple[keras.Model, list[int]]:
        """The model, and which of the recorded inputs it takes."""
        for its_outer, known, its_shapes, model, live in self._nested:
            alike = its_outer is outer and known.layer is recording.layer and its_shapes == shapes
            if alike and equal(known, recording):
                return model, live
        inputs, weights, results, live = self._replayed((recording, other), shapes)
        model = Opened([*inputs, *weights], results, name=recording.layer.name)
        model.trainable = recording.layer.trainable
        if not isinstance(recording.layer, keras.Model) or functional_of(recording.layer) is None:
            shared = {id(part.value) for part in self._shared_weights(recording)}
            model.origin = origin_of(recording, model, live, shared)
        self._nested.append((outer, recording, shapes, model, live))
        return model, live


def _read_by_several(recording: Recording) -> set[int]:
    """Ids of the `Weight`s that several models read."""
    return set(_used_by_several(recording, lambda operation: isinstance(operation, Weight)))


def called_by_several(recording: Recording) -> dict[int, tuple[keras.layers.Layer, list[Recording]]]:
    """Layers with weights that several models call, by id, and the recordings that do: Keras would load such a layer as
    several."""
    return _used_by_several(
        recording, lambda x: isinstance(x, keras.layers.Layer) and not isinstance(x, Weight) and bool(x.weights)
    )


def _used_by_several(recording: Recording, asked: Callable[[Any], bool]) -> dict[int, tuple[Any, list[Recording]]]:
    found: dict[int, tuple[Any, list[Recording]]] = {}
    for one in _models(recording):
        for operation in {id(call.operation): call.operation for call in one.needed()}.values():
            if asked(operation):
                found.setdefault(id(operation), (operation, []))[1].append(one)
    return {key: (operation, users) for key, (operation, users) in found.items() if len(users) > 1}


def _models(recording: Recording) -> list[Recording]:
    """One recording for each model that will be made: within one model, equal calls of a layer share one."""
    found = [recording]
    inner: list[Recording] = []
    for call in recording.needed():
        operation = call.operation.recording if isinstance(call.operation, Loop) else call.operation
        if isinstance(operation, Recording) and not any(_one_model(known, operation) for known in inner):
            inner.append(operation)
            found += _models(operation)
    return found


def _one_model(first: Recording, other: Recording) -> bool:
    shapes = [[tuple(x.shape) for x in one.inputs] for one in (first, other)]
    return first.layer is other.layer and shapes[0] == shapes[1] and equal(first, other)


def _run(layer, operation: Any, args, kwargs):
    try:
        return operation(*args, **kwargs)
    except Exception as error:  # such as an operation that takes no open sizes
        raise DiffersError(layer, f"with open sizes {reason_of(error)}") from error


def _widens_ones(call: RecordedCall) -> bool:
    """Whether `repeat` or `tile` changes axes of size 1 only, so that it is a broadcast."""
    before, after = call.inputs[0].shape, call.outputs[0].shape
    return len(before) == len(after) and all(a in (1, b) for a, b in zip(before, after, strict=True))


def _filled(layer, call: RecordedCall, by) -> tuple[tuple, dict]:
    if any(id(x) not in by for x in call.inputs):
        raise DiffersError(layer, f"{name_of(call)} reads a tensor that was not recorded")
    return call.filled(by)


def _rows(layer, call: RecordedCall, other: RecordedCall, args, kwargs):
    """Constants of one row for each sample, all rows alike, as one row; other arguments have to be equal."""

    def row(mine, its, given):
        if isinstance(mine, keras.KerasTensor) or same(mine, its):
            return given
        if (keras.ops.is_tensor(mine) or isinstance(mine, np.ndarray)) and mine.ndim and len(mine) != len(its):
            a, b = keras.ops.convert_to_numpy(mine), keras.ops.convert_to_numpy(its)
            if (a == a[:1]).all() and same(a[:1], b[:1]):
                return keras.ops.convert_to_tensor(a[:1])
        raise DiffersError(layer, f"a constant of {name_of(call)} in it depends on sizes")

    if call.kwargs.keys() != other.kwargs.keys() or len(call.args) != len(other.args):
        raise DiffersError(layer, f"{name_of(call)} in it depends on sizes")
    rows = {name: row(mine, other.kwargs[name], kwargs[name]) for name, mine in call.kwargs.items()}
    return tuple(row(*three) for three in zip(call.args, other.args, args, strict=True)), rows


def _fill_in_sizes(output: keras.KerasTensor, first: keras.KerasTensor, second: keras.KerasTensor) -> None:
    """Sizes that shape inference leaves open, and that are the same in both recordings."""
    if None in output.shape and len(output.shape) == len(first.shape):
        known = zip(first.shape, second.shape, output.shape, strict=True)
        set_spec(output, [a if size is None and a == b else size for a, b, size in known])


def _check_names(layer, inputs, outputs) -> None:
    """Names within one model are unique. A user's layers and operations keep theirs; what a call made is numbered here,
    alike each time, as plans and files speak of it: Keras counts its automatic names over the whole process."""
    functional = functional_of(layer) if isinstance(layer, keras.Model) else None
    own = {id(x) for x in (*all_layers(layer), *(functional.operations if functional is not None else ()))}
    taken: set[str] = set()

    def rank(operation) -> int:
        if id(operation) in own or isinstance(operation, keras.layers.InputLayer):
            return 0
        return 1 if isinstance(operation, keras.Model) else 2

    for operation in sorted(operations_between(inputs, outputs), key=rank):
        named = operation.name
        if rank(operation) == 2 and not isinstance(operation, Weight):
            named = re.sub(r"(_\d+)+$", "", named)
        name, number = named, 0
        while name in taken:
            if not rank(operation):
                raise DiffersError(layer, f"two of its layers are called {operation.name}")
            number += 1
            name = f"{named}_{number}"
        operation.name = name
        taken.add(name)
