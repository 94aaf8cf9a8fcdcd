"""Custom layers and subclassed models as functional models of known layers and operations, on the same variables."""

import dataclasses

import keras

from tfstruct.errors import ModelError
from tfstruct.graph.keras_model import require_model, subclassed
from tfstruct.graph.layer_tree import layer_paths
from tfstruct.graph.opening.assembly import Assembly, DiffersError, called_by_several
from tfstruct.graph.opening.attributes import attributes_kept
from tfstruct.graph.opening.comparison import difference
from tfstruct.graph.opening.composites import is_composite
from tfstruct.graph.opening.custom import EVERY_CUSTOM, Wanted, is_custom
from tfstruct.graph.opening.equality import unequal
from tfstruct.graph.opening.known_sizes import KnownSizes
from tfstruct.graph.opening.parts import Weight
from tfstruct.graph.opening.recorder import Recorder
from tfstruct.graph.opening.recording import Recording, reason_of, with_line
from tfstruct.graph.plain_weights import check_plain
from tfstruct.graph.rules import is_training_only
from tfstruct.graph.rules.noise import note_training_only
from tfstruct.graph.trace import functional_of
from tfstruct.keras_internals.layer_parts import all_layers, own_weights

# By id of a layer that stays closed: it, and why.
Closed = dict[int, tuple[keras.layers.Layer, str]]


@dataclasses.dataclass(frozen=True)
class OpenedModel:
    """A model whose custom layers are opened.

    Attributes:
        model: functional, uncompiled; layers and variables are those of the original.
        opened: paths of the layers that are nested models now.
        closed: path of a custom layer that is not -> the reason.
        composites: paths of layers of Keras's own that are nested models now.
    """

    model: keras.Model
    opened: tuple[str, ...]
    closed: dict[str, str]
    composites: tuple[str, ...] = ()


def open_model(model: keras.Model, inputs=None, wanted: Wanted = EVERY_CUSTOM) -> OpenedModel:
    """Opens every custom layer of a model that can be.

    Each is recorded three times on symbolic tensors of known sizes: with two sizes of everything that is open, and in
    training. Where the first two differ, what differs follows a size, or the layer stays closed; where the last
    differs, it does other things in training and stays closed. At the end outputs, outputs in training and gradients
    are compared with the original's on inputs of another size: layers that differ stay closed.

    Args:
        model: built; Sequential, functional, or subclassed with `inputs`.
        inputs: shapes (with the batch axis, None where open), `keras.KerasTensor`s or samples, in the structure that
            the model is called with; needed for a subclassed model, and where open sizes do not fit its layers.
        wanted: which layers are opened.

    Raises:
        ModelError: the model itself cannot be recorded.
    """
    require_model(model)
    check_plain(model)
    with attributes_kept(model):
        return _open(model, _specs(model, inputs), wanted)


def _open(model: keras.Model, structure, wanted: Wanted) -> OpenedModel:
    several = sum(None in x.shape[1:] for x in keras.tree.flatten(structure)) > 1
    best: OpenedModel | None = None
    problem: ModelError | None = None
    # Ids and their mask have one length; if not, what follows which of two sizes is known with different ones only.
    for alike in (True, False) if several else (False,):
        try:
            found = _checked(model, KnownSizes(structure, alike), wanted)
        except ModelError as error:
            problem = problem or error
            continue
        if best is None or len(found.closed) < len(best.closed):
            best = found
        if not best.closed:
            break
    if best is None:
        assert problem is not None
        raise problem
    return best


def _checked(model: keras.Model, sizes: KnownSizes, wanted: Wanted) -> OpenedModel:
    closed: Closed = {}
    made, layers = _opened(model, sizes, wanted, closed)
    # Without an opened layer there is nothing to compare; a layer that only ends for the right inputs need not run.
    while (layers or functional_of(model) is None) and (why := _unequal(model, made, sizes)):
        if not layers:
            raise ModelError(f"{model.name!r} cannot be opened: {why}.")
        layer = _culprit(model, sizes, wanted, layers, closed)
        closed[id(layer)] = (layer, why)
        made, layers = _opened(model, sizes, wanted, closed)
    paths = {id(op): path for path, op in layer_paths(model).items()}
    of_keras = {id(layer) for layer, _ in closed.values() if is_composite(layer)}
    if wanted.composites:
        of_keras |= {id(layer) for layer in layers if is_composite(layer) or not is_custom(layer)}
    opened = {id(layer): paths.get(id(layer), layer.name) for layer in layers}
    said = {
        paths.get(key, layer.name): with_line(layer, reason)
        for key, (layer, reason) in closed.items()
        if key not in of_keras
    }
    own = tuple(path for key, path in opened.items() if key not in of_keras)
    return OpenedModel(made, own, said, tuple(path for key, path in opened.items() if key in of_keras))


def _unequal(model: keras.Model, made: keras.Model, sizes: KnownSizes) -> str:
    try:
        # Some code takes a batch of one sample for something else.
        return unequal(model, made, sizes.known(2), small=sizes.known(2, batch=1))
    except Exception as error:  # the model does not take these sizes
        raise ModelError(
            f"{model.name!r} cannot be opened with open sizes: {reason_of(error)}. Give `inputs` with known ones."
        ) from error


def _culprit(
    model, sizes: KnownSizes, wanted: Wanted, layers: list[keras.layers.Layer], closed: Closed
) -> keras.layers.Layer:
    """One layer that makes the opened model differ: by halves, a half being opened while the others are not."""
    while len(layers) > 1:
        half = layers[: len(layers) // 2]
        others = {id(layer): (layer, "") for layer in layers if layer not in half}
        made, opened = _opened(model, sizes, wanted, {**closed, **others})
        layers = half if opened and _unequal(model, made, sizes) else layers[len(half) :]
    return layers[0]


def _opened(
    model: keras.Model, sizes: KnownSizes, wanted: Wanted, closed: Closed
) -> tuple[keras.Model, list[keras.layers.Layer]]:
    """The model with all layers opened that are wanted but those of `closed`, which gets those that cannot be, and a
    list of those that are."""
    like = keras.tree.flatten(sizes.structure)
    tied: set[int] = set()  # layers of Keras whose weights are read by others too: they are opened as well

    def opens(layer) -> bool:
        return id(layer) not in closed and (id(layer) in tied or wanted(layer)) and not is_training_only(layer)

    while True:
        known, shared, again = len(closed), len(tied), False
        weights: dict[int, Weight] = {}
        losing: set[int] = set()
        recordings: list[Recording] = []
        try:
            for which, training in ((0, False), (1, False), (0, True), (1, True)):
                if len(recordings) == 3 and not _losses_of_training(recordings[0], recordings[2]):
                    break
                recorder = Recorder(opens, training, weights, wanted.composites, losing)
                recorder.closed = dict(closed)
                recordings.append(recorder.record(model, sizes.known(which)))
                for key, (layer, reason) in recorder.closed.items():
                    if key in closed:
                        continue
                    if training and _is_noise(layer, model, recordings[0]):
                        note_training_only(layer)
                        again = True
                    else:
                        closed[key] = (layer, f"in training {reason}" if training else reason)
        except Exception as error:  # whatever a user's code raises on symbolic tensors
            raise ModelError(
                f"{model.name!r} cannot be opened: {reason_of(error)}. Expected a `call` of Keras layers and "
                "keras.ops on its inputs; `inputs` gives their shapes."
            ) from error
        if again or len(closed) > known:
            continue
        first, second, trained, *trained_again = recordings
        different = difference(first, trained, losses=False)
        if trained_again:  # what training computes for its losses is computed in inference too, and not used there
            first, second = trained, *trained_again
        if different is not None:
            layer, reason = different[0].layer, f"in training {different[1]}"
            if _is_noise(layer, model, recordings[0]):
                note_training_only(layer)
                continue
        else:
            several = called_by_several(first)
            tied |= _tied(first) | (several.keys() - closed.keys())
            if len(tied) > shared:
                continue
            try:
                if several:
                    raise _kept_several_times(model, *next(iter(several.values())))
                made = Assembly().model((first, second), like, sizes.structure)
                break
            except DiffersError as error:
                layer, reason = error.layer, f"{with_line(error.layer, str(error))}{sizes.remedy()}"
        if layer is model:
            raise ModelError(f"{model.name!r} cannot be opened: {reason}.")
        closed[id(layer)] = (layer, reason)
    return made, [layer for layer in _layers_of(first) if layer is not model]


def _kept_several_times(model: keras.Model, layer: keras.layers.Layer, callers: list[Recording]) -> DiffersError:
    """A layer that several models call, and that cannot be opened to give its weights out, keeps one of them closed."""
    caller = next((one.layer for one in callers if one.layer is not model), model)
    return DiffersError(
        caller, f"{layer.name} in it is called in other ways or places too, and a file would keep it several times"
    )


def _specs(model: keras.Model, inputs):
    """The inputs as `keras.KerasTensor`s with names, in the structure that the model is called with."""
    functional = functional_of(model)
    if inputs is None:
        if functional is None:
            raise subclassed(model)
        structure = functional.input
        alone = isinstance(structure, (list, tuple)) and len(structure) == 1
        return structure[0] if alone else structure
    names = [x.name for x in functional.inputs] if functional is not None else []
    dtypes = [x.dtype for x in functional.inputs] if functional is not None else []
    numbers = iter(range(10**6))

    def spec(x):
        i = next(numbers)
        name = names[i] if i < len(names) else ("input" if not i else f"input_{i}")
        if isinstance(x, keras.KerasTensor):
            return keras.KerasTensor(x.shape, x.dtype, name=x.name)
        if _is_shape(x):
            return keras.KerasTensor(x, dtypes[i] if i < len(dtypes) else model.input_dtype, name=name)
        x = keras.ops.convert_to_tensor(x)
        return keras.KerasTensor((None, *x.shape[1:]), x.dtype, name=name)

    return (
        keras.tree.map_shape_structure(spec, inputs) if _has_shapes(inputs) else keras.tree.map_structure(spec, inputs)
    )


def _is_shape(x) -> bool:
    return isinstance(x, (tuple, list)) and bool(x) and all(n is None or isinstance(n, int) for n in x)


def _has_shapes(inputs) -> bool:
    if isinstance(inputs, dict):
        return any(map(_has_shapes, inputs.values()))
    if isinstance(inputs, (list, tuple)):
        return _is_shape(inputs) or any(map(_has_shapes, inputs))
    return False


def _losses_of_training(inference: Recording, training: Recording) -> bool:
    """Whether losses are added in training that are not in inference."""
    counts = [sum(len(one.losses) for one in recording.all_within()) for recording in (inference, training)]
    return counts[0] < counts[1]


def _is_noise(layer: keras.layers.Layer, model: keras.Model, inference: Recording) -> bool:
    """Whether a layer that cannot be opened for what it does in training hands its only input on in inference, and is
    not known to: one that is, such as a cell, is not left out of its model by that."""
    if layer is model or is_training_only(layer):
        return False
    calls = [recording for recording in inference.all_within() if recording.layer is layer]
    return bool(calls) and all(len(one.results) == 1 and one.results[0] is one.inputs[0] for one in calls)


def _layers_of(recording: Recording) -> list[keras.layers.Layer]:
    return list({id(one.layer): one.layer for one in recording.all_within()}.values())


def _tied(recording: Recording) -> set[int]:
    """Layers that are called as they are and own a variable that a `Weight` gives out too."""
    calls = [call for one in recording.all_within() for call in one.needed()]
    given = {id(call.operation.value) for call in calls if isinstance(call.operation, Weight)}
    found = set()
    for call in calls:
        operation = call.operation
        if not isinstance(operation, keras.layers.Layer) or isinstance(operation, Weight):
            continue
        for layer in all_layers(operation):
            if {id(v) for v in own_weights(layer)} & given:
                found.add(id(layer))
                found.add(id(operation))
    return found
