"""A model that comes out of surgery is compiled as the one that went in."""

import warnings

import keras

from tfstruct.keras_internals.training import compile_anew


def compile_like(new: keras.Model, original: keras.Model) -> None:
    """Compiles a new model with the loss of the original, copies of its metrics and a fresh optimizer of the same
    settings, if that is compiled. Where these cannot be made again it stays uncompiled, which a warning says."""
    try:
        compile_anew(new, original)
    except Exception as error:  # of the user's own classes, whatever they raise
        first = (str(error).splitlines() or [type(error).__name__])[0]
        warnings.warn(
            f"`{new.name}` is not compiled: the optimizer or metrics of `{original.name}` cannot be made again from "
            f"their configuration ({first}). Compile it before `fit`.",
            stacklevel=4,
        )
