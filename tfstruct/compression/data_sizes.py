"""A model whose inputs leave sizes open as one of the sizes of its data: a file of open sizes can be neither measured
nor timed."""

import keras

from tfstruct.compression.dataset import Examples, Stream
from tfstruct.errors import ModelError
from tfstruct.graph.copying import copied
from tfstruct.graph.sizes import BY_A_CALL, open_input
from tfstruct.keras_internals.training import compile_anew


def open_inputs(model: keras.Model) -> list[keras.KerasTensor]:
    """The inputs of a model that leave sizes open, the batch apart."""
    return [x for x in getattr(model, "inputs", None) or () if None in x.shape[1:]]


def of_data_sizes(model: keras.Model, data: Examples | Stream) -> tuple[keras.Model, str]:
    """A copy of a model on inputs of the sizes that its data has, and which they are, as a sentence.

    Raises:
        ModelError: the data does not fix the sizes, or the model cannot be made again on them.
    """
    wanted, found = [], []
    for x, size in zip(model.inputs, data.sizes, strict=True):
        if None in size:
            remedy = f"data of one size, or a model that is called on a fixed one: {BY_A_CALL}"
            raise ModelError(f"{open_input(x.name, x.shape[1:], remedy)}. {data} leaves it open too.")
        wanted.append((x.shape[0], *size))
        if None in x.shape[1:]:
            found.append(f"{x.name!r} takes samples of {size}")
    try:
        made = copied(model, wanted)
    except ModelError as error:
        x, remedy = open_inputs(model)[0], f"a model that is called on a fixed one: {BY_A_CALL}"
        raise ModelError(f"{open_input(x.name, x.shape[1:], remedy)}. ({error})") from error
    compile_anew(made, model)
    sizes = "; ".join(found)
    return made, f"the model leaves sizes of its inputs open; the result has those of the training data: {sizes}"
