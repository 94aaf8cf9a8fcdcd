"""The first batch that `fit` trains on, seen on its way: callbacks are not shown any."""

import contextlib
from collections.abc import Callable

import keras
import tensorflow as tf

from tfstruct.keras_internals.replacing import replaced_attributes


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
