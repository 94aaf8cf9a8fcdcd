"""Gradients of the loss on a user's data, at the weights as they stand."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tfstruct.analyze.inference import whole_batches
from tfstruct.analyze.losses import loss_function, slices
from tfstruct.graph.layer_tree import states_kept
from tfstruct.graph.sizes import fixed_batch
from tfstruct.keras_internals.layer_parts import all_layers
from tfstruct.samples.for_model import samples_of


class MeanGradients:
    """The mean gradient of the loss over some labelled data, in inference mode, which changes nothing in the model.

    Args:
        data, loss: as in `tfstruct.analyze.importance`; without `loss` the compiled one.
    """

    def __init__(self, model: keras.Model, variables: Sequence[keras.Variable], data, loss=None, batch_size: int = 32):
        self._model = model
        samples = samples_of(model, data, need="Gradients need labels")
        found = samples.in_memory()
        inputs, self._y = whole_batches(model, found.inputs, found.labels)
        self._x = samples.ports.arranged(inputs)
        self._batch_size = fixed_batch(model) or batch_size
        self._count = len(keras.tree.flatten(self._x)[0])
        whole = loss_function(model, loss, "A criterion of gradients")
        # Small gradients are lost in float16, so the loss is scaled as in training.
        scale = 1024.0 if "float16" in {str(layer.compute_dtype) for layer in all_layers(model)} else 1.0
        values = [variable.value for variable in variables]

        def of_replica(x, y):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(values)
                value = keras.ops.cast(whole(y, model(x, training=False)), "float32") * scale
            found = tape.gradient(value, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            return [tf.cast(tf.convert_to_tensor(one), tf.float32) / scale for one in found]

        strategy = model.distribute_strategy

        @tf.function(reduce_retracing=True)
        def of_batch(x, y):  # every replica sees the whole batch
            return [strategy.experimental_local_results(one)[0] for one in strategy.run(of_replica, args=(x, y))]

        self._of_batch = of_batch

    def __call__(self) -> list[np.ndarray]:
        """One array for each variable, shaped like it."""
        total: list[np.ndarray] = []
        with states_kept(self._model):
            for part in slices(self._count, self._batch_size):
                x, y = (keras.tree.map_structure(lambda a, part=part: a[part], values) for values in (self._x, self._y))
                share = (part.stop - part.start) / self._count
                found = [np.asarray(one) * share for one in self._of_batch(x, y)]
                total = [a + b for a, b in zip(total, found, strict=True)] if total else found
        return total
