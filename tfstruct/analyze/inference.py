"""A user's model run in inference: in batches that it takes, and left as it was."""

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator

import keras

from tfstruct.errors import DataError
from tfstruct.graph.layer_tree import states_kept
from tfstruct.graph.sizes import fixed_batch
from tfstruct.samples import Batch, Samples
from tfstruct.samples.for_model import samples_of


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
                labels = given.arguments.pop("labels", None)
                found = samples_of(model, given.arguments["data"], labels, use_labels=True).in_memory()
                x, y = whole_batches(model, found.inputs, found.labels)
                given.arguments["data"] = (x,) if y is None else (x, y)
            given.arguments.update(dict.fromkeys({"batch_size", "samples"} & set(signature.parameters), batch))
        with states_kept(model):
            return function(*given.args, **given.kwargs)

    return run


def batches_for(model: keras.Model, samples: Samples, size: int) -> Iterator[Batch]:
    """Samples in batches of `size`, or of the size that the model fixes: then what fills none is left out, and said.

    Raises:
        DataError: less than one batch of the fixed size.
    """
    batch, count, done = fixed_batch(model), 0, 0
    for found in samples.batches(batch or size):
        count += found.size
        if batch in (None, found.size):
            done += 1
            yield found
    if batch is not None:
        _say_left_out(model, batch, count, done * batch)


def whole_batches(model: keras.Model, x, y=None) -> tuple[object, object]:
    """Samples and labels that fill the batches of a model that fixes their size, as far as they do; all for any other.

    Raises:
        DataError: less than one batch.
    """
    batch = fixed_batch(model)
    count = len(keras.tree.flatten(x)[0])
    if batch is None or count % batch == 0:
        return x, y
    _say_left_out(model, batch, count, count - count % batch)
    x, y = (
        None if one is None else keras.tree.map_structure(lambda a: a[: count - count % batch], one) for one in (x, y)
    )
    return x, y


def _say_left_out(model: keras.Model, batch: int, count: int, taken: int) -> None:
    if not taken:
        raise DataError(f"The inputs of `{model.name}` fix the batch at {batch} samples. Received: {count}.")
    if taken < count:
        warnings.warn(
            f"The inputs of `{model.name}` fix the batch at {batch}: {count - taken} of {count} samples are left out.",
            stacklevel=4,
        )
