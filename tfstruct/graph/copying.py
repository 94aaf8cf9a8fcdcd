"""A model once more."""

import keras

from tfstruct.errors import ModelError


def copied(model: keras.Model) -> keras.Model:
    """The same layers and weights in a model of its own, not compiled; names, nested models, shared layers as they are.

    Raises:
        ModelError: a subclassed model whose configuration does not make it again.
    """
    functional = bool(getattr(model, "inputs", None))
    nested = functional and any(isinstance(layer, keras.Model) for layer in model.layers)
    try:
        copy = keras.models.clone_model(model, recursive=True) if nested else keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
    except (ValueError, TypeError, NotImplementedError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(
            f"{model.name!r} cannot be copied: `get_config` and `from_config` do not make it again, built as it is. "
            f"({reason})"
        ) from error
    return copy
