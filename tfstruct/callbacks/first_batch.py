"""The first batch that `fit` trains on, seen on its way: callbacks are not shown any."""

import contextlib
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from tfstruct.errors import DataError
from tfstruct.keras_internals.replacing import replaced_attributes
from tfstruct.samples.for_model import samples_of


class FirstBatch:
    """Stands before `model.train_function` for one step: hands the batch on to `receive`, then to training as it was.

    Keras gives the train function an iterator. Of it one batch is taken, and given to training in an iterator of the
    same element type, so that nothing is traced again. Iterators of other kinds (eager loops) go through as they are.
    """

    def __init__(self, model: keras.Model, receive: Callable):
        self._model, self._receive, self._train = model, receive, model.train_function
        self._standing_before = contextlib.ExitStack()
        self._standing_before.enter_context(replaced_attributes(model, train_function=self))

    def take_out(self) -> None:
        self._standing_before.close()

    def __call__(self, iterator):
        self.take_out()
        if not isinstance(iterator, tf.data.Iterator) or self._model.steps_per_execution > 1:
            return self._train(iterator)
        spec = iterator.element_spec
        batch = next(iterator)
        self._receive(batch)
        again = tf.data.Dataset.from_generator(lambda: iter([batch]), output_signature=spec)
        return self._train(iter(again))


def evenly(data, samples: int) -> tuple:
    """(x, y) or (x, y, sample_weight) with at most that many samples, as arrays."""
    if len(data) not in (2, 3) or data[1] is None:
        raise DataError(f"Expected data=(x, y) or (x, y, sample_weight). Received: {len(data)} parts.")
    data = tuple(part for part in data if part is not None)
    parts = keras.tree.map_structure(np.asarray, data)
    sizes = {len(one) if one.ndim else 0 for one in keras.tree.flatten(parts)}
    if len(sizes) != 1 or sizes == {0}:
        raise DataError(f"Expected equally many samples and labels, at least one. Received: {sorted(sizes)}.")
    count = sizes.pop()
    rows = np.linspace(0, count - 1, min(samples, count)).astype(int)
    return keras.tree.map_structure(lambda one: one[rows], parts)


def first_samples(model, data, samples: int) -> tuple:
    """The first samples of a user's data as the model takes them: (x, y) or (x, y, sample_weight)."""
    opened = samples_of(model, data, need="Diagnose needs labels", limit=samples)
    found = opened.in_memory()
    x = opened.ports.arranged(found.inputs)
    return (x, found.labels) if found.weights is None else (x, found.labels, found.weights)
