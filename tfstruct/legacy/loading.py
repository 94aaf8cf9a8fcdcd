"""`load` and `read`: a model, whatever made it, as Keras 3 has it."""

import dataclasses
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfstruct.errors import ModelError
from tfstruct.legacy.files import check_path

if TYPE_CHECKING:
    import keras
    import numpy as np

_NAMED = 6  # layers to which the same was done


@dataclasses.dataclass(frozen=True)
class Legacy:
    """A model as Keras 3 has it, with what its source knew besides.

    Attributes:
        model: the Keras 3 model, not compiled; plain layers without TFMOT's wrappers.
        changes: what was changed, a line each: layer, what, why. Empty for a Keras 3 model.
        masks: weight path -> True where a pruned weight may be other than zero.
        centroids: weight path -> the values a clustered weight may take.
        ranges: layer path or input name -> (low, high) that quantization-aware training found for the output;
            `"path/pre_activation"` for the values that enter an activation which is quantized apart.
        weight_limits: `"path/kernel"` -> the largest magnitude that quantization-aware training quantized the kernel
            to, one number or one an output channel; see `Recipe.weight_limits`.
    """

    model: "keras.Model"
    changes: tuple[str, ...] = ()
    masks: Mapping[str, "np.ndarray"] = dataclasses.field(default_factory=dict, repr=False)
    centroids: Mapping[str, "np.ndarray"] = dataclasses.field(default_factory=dict, repr=False)
    ranges: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict, repr=False)
    weight_limits: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        return self.explain()

    def explain(self) -> str:
        """What was changed, in lines: one for all layers to which the same was done."""
        head = f"{self.model.name}: {self.model.count_params():,} parameters"
        kept = [
            f"{len(found)} {what}"
            for found, what in (
                (self.masks, "pruned weights"),
                (self.centroids, "clustered weights"),
                (self.ranges, "trained ranges"),
            )
            if found
        ]
        head += f"; kept {', '.join(kept)}" if kept else ""
        return "\n".join([head, *(f"  {line}" for line in _together(self.changes) or ("nothing was changed",))])


def _together(changes: tuple[str, ...]) -> list[str]:
    """Equal changes in one line, with the layers before it."""
    layers: dict[str, list[str]] = {}
    for line in changes:
        layer, _, what = line.partition(": ")
        layers.setdefault(what, []).append(layer)
    return [
        f"{', '.join(names[:_NAMED])}{f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''}: {what}"
        if what
        else names[0]
        for what, names in layers.items()
    ]


def load(path_or_model: Any, *, trust: bool = False, signature: str | None = None) -> "keras.Model":
    """Loads a trained model for inference, as Keras 3 has it.

    Args:
        path_or_model, trust, signature: see `read`.

    Returns:
        The `keras.Model` of `read`, with equal outputs and names.

    Raises:
        ModelError: as `read`.

    Example:
        >>> model.save("model.keras")
        >>> again = tfstruct.legacy.load("model.keras")
        >>> np.array_equal(again(x), model(x))
        True
    """
    return read(path_or_model, trust=trust, signature=signature).model


def read(path_or_model: Any, *, trust: bool = False, signature: str | None = None) -> Legacy:
    """Reads a model of Keras 3, Keras 2 or TFMOT.

    Args:
        path_or_model: a `.keras` or `.h5` file, a SavedModel folder, or a model object: of Keras 3, of
            `tf_keras`, or one that TFMOT wrapped for pruning, clustering or quantization-aware training.
        trust: let the file run code: Lambda layers, and classes imported by the module path the file names.
            Classes registered with `keras.saving.register_keras_serializable` need no trust. A model object
            has run its code already.
        signature: of a SavedModel folder, the function that is wanted, run as the graph it is. By default the Keras
            layers that Keras 2 saved, else `serving_default`, `serve`, or the only one. What cannot be made Keras
            layers runs as a graph too, with a warning that says what is lost.

    Returns:
        The Keras 3 model with equal outputs and names (without TFMOT's `quant_`, `prune_low_magnitude_` and
        `cluster_`), the masks, centroids and ranges of TFMOT, and what was changed. Of a quantization-aware
        model it is the float model with the trained weights.

    Raises:
        ModelError: a missing, unreadable, damaged or unsafe file, one of a kind that is not read, a layer
            that Keras 3 does not have, or a signature that is not there or not clear; the message names it.

    Example:
        >>> tfstruct.legacy.read(model).changes
        ()
    """
    source = path_or_model
    file = check_path(source) if isinstance(source, str | os.PathLike) else None
    if file is not None and file.is_dir():
        from tfstruct.legacy import savedmodel

        return _legacy(*savedmodel.read_folder(file, trust=trust, signature=signature))
    if signature is not None:
        what = "a model object" if file is None else str(file)
        raise ModelError(f"Only a SavedModel folder has signatures. Received: signature={signature!r} for {what}.")
    if file is not None:
        from tfstruct.legacy import files

        source = files.open_file(file, trust=trust)
    import keras

    if isinstance(source, keras.Model):
        return Legacy(source)
    if is_tf_keras(source):
        from tfstruct.legacy.conversion import to_keras3

        return _legacy(*to_keras3(source))
    raise ModelError(
        f"Expected a path, a keras.Model or a tf_keras model. Received: {type(source).__module__}."
        f"{type(source).__name__}."
    )


def _legacy(model, found) -> Legacy:
    return Legacy(
        model, tuple(dict.fromkeys(found.changes)), found.masks, found.centroids, found.ranges, found.weight_limits
    )


def explain(path_or_model: Any, *, trust: bool = False, signature: str | None = None) -> str:
    """What `load` changes in a model, in words.

    Args:
        path_or_model, trust, signature: see `read`.

    Returns:
        Text: a line on the model, then one a change: layer, what, why.

    Raises:
        ModelError: as `read`.

    Example:
        >>> print(tfstruct.legacy.explain(convnet))
        convnet: 1,452 parameters
          nothing was changed
    """
    return read(path_or_model, trust=trust, signature=signature).explain()


def is_tf_keras(model: Any) -> bool:
    """True for a Keras 2 model; looks at its classes' modules, so that tf_keras is not imported for it."""
    names = {f"{c.__module__.split('.')[0]}.{c.__name__}" for c in type(model).__mro__}
    return "tf_keras.Model" in names
