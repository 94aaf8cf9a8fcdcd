"""`samples_of`: what a user gives as data, as samples of a model."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras

from tfstruct.errors import DataError, ModelError
from tfstruct.samples.ports import Ports
from tfstruct.samples.preprocess import Preprocess
from tfstruct.samples.stream import Samples, open_samples


def samples_of(
    model: keras.Model | Ports,
    data: Any,
    labels: Any = None,
    *,
    need: str | None = None,
    use_labels: bool = False,
    preprocess: Preprocess = Preprocess(),  # noqa: B008 (frozen)
    limit: int | None = None,
    finite: bool = False,
    endless: bool = False,
) -> Samples:
    """Opens data for a model by the rules of `tfstruct.samples`: inputs in its order and dtypes, labels as its outputs.

    Args:
        model: a Keras model, or the ports of one.
        data: see `tfstruct.samples`; or `Samples` that are open already.
        labels: where `data` does not hold them, see `open_samples`.
        need: what cannot do without labels, such as "sensitivity needs labels": the error begins with it.
        use_labels: read labels where there are any; without it and `need` they are only counted.
        preprocess, limit, finite, endless: see `open_samples`.

    Raises:
        DataError: data that cannot be read or do not fit the model.
    """
    if isinstance(data, Samples):
        return data
    if data is None:
        raise DataError("Expected data: arrays, a pair (x, y), a tf.data.Dataset or a generator. Received: None.")
    if isinstance(model, Ports):
        ports = model
    else:
        ports, data = _ports(model, data)
    use_labels = use_labels or need is not None or labels is not None
    opened = open_samples(
        data, ports.inputs, labels=labels if use_labels else False, preprocess=preprocess, limit=limit,
        outputs=len(ports.outputs or ()) or 1, finite=finite, endless=endless,
    )  # fmt: skip
    return opened.for_model(ports, need)


def readable_again(model: keras.Model, data: Any) -> Any:
    """The data for several readings: of a generator, which gives its samples once, what it gave, held in memory."""
    if not isinstance(data, Iterator):
        return data
    found = samples_of(model, data, use_labels=True).in_memory()
    return (found.inputs,) if found.labels is None else (found.inputs, found.labels)


def _ports(model: keras.Model, data: Any) -> tuple[Ports, Any]:
    """The ports of a model, and the data; where the model does not know its inputs the first batch tells them."""
    model = getattr(model, "model", model) if not getattr(model, "inputs", None) else model  # of a twin
    try:
        ports = Ports(model)
    except ModelError:
        if getattr(model, "inputs", None):
            raise
    else:
        if not getattr(model, "inputs", None):  # the sizes are those of its first call, and no promise
            ports.inputs = tuple(dataclasses.replace(s, shape=(None,) * len(s.shape)) for s in ports.inputs)
        return ports, data
    first = data
    if not isinstance(data, Mapping | list | tuple) and not hasattr(data, "__array__"):
        if not isinstance(data, Iterable):
            raise DataError(
                f"The model {model.name!r} does not know its inputs yet. Expected arrays or batches, received "
                f"{type(data).__name__}. Call it once on a batch: model(x)."
            )
        stream = iter(data)
        first = next(stream, None)
        if first is None:
            raise DataError("Expected at least one batch. Received none.")
        if stream is data:
            data = itertools.chain([first], stream)
    x = first[0] if isinstance(first, tuple) else first
    return Ports.of_data(x), data
