"""Regularizers put on a model that is already built, and taken off."""

import warnings
from collections.abc import Callable, Sequence
from typing import TypeAlias

import keras

from tfstruct.arguments import checked
from tfstruct.errors import ArgumentError
from tfstruct.graph.operation_traits import layers_with
from tfstruct.keras_internals.layer_parts import regularizer_name
from tfstruct.keras_internals.training import forget_steps
from tfstruct.regularizers.channel_groups import channel_norms
from tfstruct.regularizers.orthogonality import Orthogonal
from tfstruct.regularizers.sparsity import BatchNormScale, GroupLasso, HoyerSquare
from tfstruct.regularizers.weights import ATTENTION, Weight, chosen, stored, weights
from tfstruct.reporting import InPlaceReport
from tfstruct.reporting.tables import counted

_TRANSPOSED, _DEPTHWISE = layers_with("transposed"), layers_with("depthwise")
Layers: TypeAlias = str | keras.layers.Layer | Callable[[keras.layers.Layer], bool] | Sequence | None


@checked
def apply(model: keras.Model, regularizer, layers: Layers = None) -> InPlaceReport:
    """Puts a regularizer on weights of a model that is already built; the model itself is changed.

    Kernels get it: all weights of two or more axes that are multiplied with what comes in, so those of dense,
    convolutional, recurrent, attention and embedding layers. `BatchNormScale` goes on the gammas of batch norms,
    `GroupLasso(by="channel")` on all weights that make channels which can be removed. A weight's own regularizer, if it
    has one, is replaced. `by="filter"` and `Orthogonal` follow the layer: depthwise kernels are grouped by channel,
    those of transposed convolutions by their own axis of filters.

    From then on `model.losses` holds the penalty: `fit` and `evaluate` trace their step again, also after a first
    `fit`; a `tf.function` of the user's own that adds `sum(model.losses)` has to be traced after this call. Give the
    model that is trained, not one nested in it. As always in Keras, weights that are frozen are not penalized.

    The regularizer is written to the layer's configuration, `layer.kernel_regularizer`, so that a `.keras` file, a
    clone and a smaller model of `surgery` have it. Where no configuration can hold it (layers with weights of their own
    naming, layers that a subclassed model makes in its own code), a warning names the weights: call `apply` again after
    loading. `GroupLasso(by="channel")` is kept as data, and says so in an error if it is trained without a new `apply`.

    Args:
        model: built; compiled or not.
        regularizer: a regularizer as `kernel_regularizer=` takes it: an object, `"l2"`, or a function.
        layers: which layers: names or paths such as `"block/conv*"` (`*` and `?` match), layer objects, a predicate
            `layer -> bool`, or a list of these; None for all. A nested model or a wrapper stands for all inside.

    Returns:
        `InPlaceReport`: which weights have it now, and what it took the place of. Its value is their paths, a tuple.

    Raises:
        ModelError: nothing matches, the model is not built, or its channels cannot be followed (by="channel").

    Example:
        >>> report = tfstruct.regularizers.apply(model, "l2", layers="hidden")
        >>> report.changes
        (('hidden/kernel', 'penalized'),)
        >>> len(model.losses)
        1
    """
    regularizer = keras.regularizers.get(regularizer)
    if regularizer is None:
        raise ArgumentError(
            "`regularizer` must be a regularizer, such as tfstruct.regularizers.L1(1e-4). Received: None."
        )
    everything = weights(model)
    if isinstance(regularizer, BatchNormScale):
        picked = chosen(model, everything, layers, _is_gamma, "a gamma of a batch normalization")
    else:
        picked = chosen(model, everything, layers, lambda w: w.is_kernel, "a kernel")
    across = isinstance(regularizer, GroupLasso) and regularizer.by == "channel"
    if across:
        trained, meant = ({id(w.variable) for w in some} for some in (everything, picked))
        given = channel_norms(model, trained, meant).tie(regularizer)
        picked = [w for w in everything if id(w.variable) in given]
    else:
        given = {id(w.variable): _suited(regularizer, w) for w in picked}
    changes = tuple((w.path, _replacing(w.variable.regularizer)) for w in picked)
    for weight in picked:
        _set(weight, given[id(weight.variable)])
    forget_steps(model)
    alike = _attention(everything)
    attended = [w for w in everything if w.variable.regularizer is not None and _attends(w) and w not in picked]
    lost = [w.path for w in [*picked, *attended] if not stored(w, alike)]
    if lost and (not across or len(lost) >= len(picked)):
        warnings.warn(
            f"The configuration of `{model.name}` cannot hold the regularizer of {', '.join(lost[:8])}"
            f"{', ...' if len(lost) > 8 else ''}: it is at work now, but not after loading from a file. Call "
            "tfstruct.regularizers.apply again there.",
            stacklevel=2,
        )
    title = f"{model.name}: {_name(regularizer)} on {counted(len(picked), 'weight')}"
    left = tuple((path, "no configuration holds it: a loaded file lacks it") for path in lost)
    return InPlaceReport(title, changes, left, value=tuple(w.path for w in picked))


@checked
def remove(model: keras.Model, layers: Layers = None) -> InPlaceReport:
    """Takes off all regularizers of weights, those that the layers were made with too; `fit` traces its step again.

    Activity regularizers stay.

    Args:
        model: built.
        layers: as in `apply`.

    Returns:
        `InPlaceReport`: which weights had one. Its value is their paths, a tuple.

    Raises:
        ModelError: nothing matches.

    Example:
        >>> _ = tfstruct.regularizers.apply(model, "l2")
        >>> tfstruct.regularizers.remove(model).value
        ('hidden/kernel', 'scores/kernel')
    """
    everything = weights(model)
    picked = chosen(model, everything, layers, lambda w: True, "a weight")
    changes = tuple(
        (w.path, f"{_name(w.variable.regularizer)} taken off") for w in picked if w.variable.regularizer is not None
    )
    for weight in picked:
        _set(weight, None)
    _attention(everything)
    forget_steps(model)
    title = f"{model.name}: regularizers taken off {counted(len(changes), 'weight')}"
    return InPlaceReport(title, changes, value=tuple(path for path, _ in changes))


def _name(regularizer) -> str:
    return getattr(regularizer, "__name__", type(regularizer).__name__)


def _replacing(former) -> str:
    return "penalized" if former is None else f"penalized, in place of {_name(former)}"


def _is_gamma(weight: Weight) -> bool:
    return isinstance(weight.layer, keras.layers.BatchNormalization) and weight.variable is weight.layer.gamma


def _suited(regularizer, weight: Weight):
    """The regularizer with the axis that the filters of this layer's kernel have."""
    transposed, depthwise = isinstance(weight.layer, _TRANSPOSED), isinstance(weight.layer, _DEPTHWISE)
    if weight.variable.name == "depthwise_kernel":
        depthwise = True
    if isinstance(regularizer, GroupLasso | HoyerSquare) and (transposed or depthwise):
        axes: dict[object, int | tuple[int, int]] = {
            "filter": (-2, -1) if depthwise else -2,
            "row": -2 if depthwise else -1,
        }
        by = axes.get(regularizer.by)
        return regularizer if by is None else type(regularizer)(regularizer.strength, by)
    if isinstance(regularizer, Orthogonal) and regularizer.axis == -1 and transposed:
        return Orthogonal(regularizer.strength, -2)
    return regularizer


def _set(weight: Weight, regularizer) -> None:
    weight.variable.regularizer = regularizer
    if weight.attribute is not None:
        setattr(weight.layer, weight.attribute, regularizer)


def _attention(everything: list[Weight]) -> set[int]:
    """Attention layers have one regularizer for all of their kernels: it is set where all have the same.

    Returns:
        The ids of these kernels.
    """
    inside: dict[int, tuple[keras.layers.Layer, list[Weight]]] = {}
    for weight in everything:
        for layer in weight.around:
            if isinstance(layer, ATTENTION) and weight.is_kernel:
                inside.setdefault(id(layer), (layer, []))[1].append(weight)
    alike: set[int] = set()
    for layer, own in inside.values():
        same = len({_settings_of(w.variable.regularizer) for w in own}) == 1
        setattr(layer, regularizer_name(layer), own[0].variable.regularizer if same else None)
        alike.update(id(w.variable) for w in own if same)
    return alike


def _attends(weight: Weight) -> bool:
    return weight.is_kernel and any(isinstance(layer, ATTENTION) for layer in weight.around)


def _settings_of(regularizer) -> str:
    """Equal for regularizers of equal settings."""
    return str(keras.regularizers.serialize(regularizer)) if regularizer is not None else ""
