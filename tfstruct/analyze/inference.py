"""A user's model run in inference: in batches that it takes, and left as it was."""

import functools
import inspect
import warnings
from collections.abc import Callable

import keras

from tfstruct.analyze.batches import arrays
from tfstruct.errors import DataError
from tfstruct.graph.layer_tree import states_kept
from tfstruct.graph.sizes import fixed_batch


def in_inference(function: Callable) -> Callable:
    """A function whose first argument is a model that it runs on samples.

    The states of the model's stateful layers and the seeds of its random ones are afterwards what they were. Where the
    model fixes its batch size, `data` come in whole batches, and that size is `batch_size`, or `samples`, which are all
    run at once.
    """
    signature = inspect.signature(function)
    first = next(iter(signature.parameters))

    @functools.wraps(function)
    def run(*args, **kwargs):
        try:
            given = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # says it by its own name
        model = given.arguments.get(first)
        if not isinstance(model, keras.Model):
            return function(*args, **kwargs)
        batch = fixed_batch(model)
        if batch is not None:
            if given.arguments.get("data") is not None:
                x, y = whole_batches(model, *arrays(given.arguments["data"], given.arguments.pop("labels", None)))
                given.arguments["data"] = x if y is None else (x, y)
            given.arguments.update(dict.fromkeys({"batch_size", "samples"} & set(signature.parameters), batch))
        with states_kept(model):
            return function(*given.args, **given.kwargs)

    return run


def whole_batches(model: keras.Model, x, y=None) -> tuple[object, object]:
    """Samples and labels that fill the batches of a model that fixes their size, as far as they do; all for any other.

    Raises:
        DataError: less than one batch.
    """
    batch = fixed_batch(model)
    count = len(keras.tree.flatten(x)[0])
    if batch is None or count % batch == 0:
        return x, y
    if count < batch:
        raise DataError(f"The inputs of `{model.name}` fix the batch at {batch} samples. Received: {count}.")
    warnings.warn(
        f"The inputs of `{model.name}` fix the batch at {batch}: {count % batch} of {count} samples are left out.",
        stacklevel=4,
    )
    x, y = (
        None if one is None else keras.tree.map_structure(lambda a: a[: count - count % batch], one) for one in (x, y)
    )
    return x, y
