"""Whether two recordings do the same."""

import keras
import numpy as np

from tfstruct.graph.opening.parts import AddedLoss, Constant, Weight
from tfstruct.graph.opening.recording import Loop, RecordedCall, Recording
from tfstruct.graph.rules import rule_of
from tfstruct.keras_internals.recorded_calls import computed_by


def same(a, b) -> bool:
    """Equal arguments or attributes; tensors of a recording count as equal, see `equal`."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, slice):
        return same((a.start, a.stop, a.step), (b.start, b.stop, b.step))
    if isinstance(a, keras.KerasTensor) or a is b:
        return True
    if keras.ops.is_tensor(a) or isinstance(a, np.ndarray):
        return tuple(a.shape) == tuple(b.shape) and bool(np.all(np.asarray(a) == np.asarray(b)))
    try:
        return bool(a == b) or bool(a != a and b != b)
    except (TypeError, ValueError):
        return False


def equal(a: Recording, b: Recording) -> bool:
    """The same operations on the same tensors, with the same weights, constants and arguments."""
    return a is b or difference(a, b) is None


def difference(a: Recording, b: Recording, losses: bool = True) -> tuple[Recording, str] | None:
    """The innermost recording in which two differ, and in what; None where they do not. Losses count if `losses`."""
    calls, others = (_steps(one, losses) for one in (a, b))
    if len(a.inputs) != len(b.inputs):
        return a, "it gets other tensors"
    # Where tensors come from: of which input, or of which output of which call.
    places: dict[int, tuple] = {id(x): ("input", i) for i, x in enumerate(a.inputs)}
    other_places: dict[int, tuple] = {id(x): ("input", i) for i, x in enumerate(b.inputs)}
    for number, (call, other) in enumerate(zip(calls, others, strict=False)):
        operation, its = call.operation, other.operation
        if isinstance(operation, Recording) and isinstance(its, Recording):
            if operation.layer is not its.layer:
                return a, f"it calls {operation.layer.name} or {its.layer.name}"
            inner = difference(operation, its, losses)
            if inner is not None:
                return inner
        elif isinstance(operation, Loop) and isinstance(its, Loop) and operation.layer is its.layer:
            inner = difference(operation.recording, its.recording, losses)
            if inner is not None:
                return inner
        elif not _same_operation(operation, its):
            return a, f"it computes {name_of(call)} or {name_of(other)}"
        if not same((call.args, call.kwargs), (other.args, other.kwargs)):
            return a, f"it gives {name_of(call)} other arguments"
        if [places.get(id(x)) for x in call.inputs] != [other_places.get(id(x)) for x in other.inputs]:
            return a, f"it gives {name_of(call)} other tensors"
        places.update({id(x): (number, i) for i, x in enumerate(call.outputs)})
        other_places.update({id(x): (number, i) for i, x in enumerate(other.outputs)})
    if len(calls) != len(others):
        return a, f"it computes {len(calls)} or {len(others)} operations"
    if not losses:
        _pass_losses(a, places)
        _pass_losses(b, other_places)
    if [places.get(id(x)) for x in a.results] != [other_places.get(id(x)) for x in b.results]:
        return a, "it returns other tensors"
    return None


def _steps(recording: Recording, losses: bool) -> list[RecordedCall]:
    return [call for call in recording.needed(losses) if losses or not isinstance(call.operation, AddedLoss)]


def _pass_losses(recording: Recording, places: dict[int, tuple]) -> None:
    """What an `AddedLoss` returns comes from where its tensor does."""
    for call in recording.needed(losses=False):
        if isinstance(call.operation, AddedLoss):
            places[id(call.outputs[0])] = places[id(call.inputs[0])]


def name_of(call: RecordedCall) -> str:
    operation = call.operation
    if isinstance(operation, (Recording, Loop)):
        return operation.layer.name
    return operation.name if isinstance(operation, keras.layers.Layer) else type(operation).__name__


def _same_operation(a, b) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, Weight):
        return a.value is b.value
    if isinstance(a, Constant):
        return same(a.array, b.array)
    if isinstance(a, keras.layers.Layer):
        return a is b or made_alike(a, b)
    return same(computed_by(a), computed_by(b))


def made_alike(a: keras.layers.Layer, b: keras.layers.Layer) -> bool:
    """Layers without weights that a call makes anew each time."""

    def config(layer):
        return {key: value for key, value in layer.get_config().items() if key != "name"}

    known = type(a) is type(b) and rule_of(a) is not None and not a.weights and not b.weights
    return known and same(config(a), config(b))
