"""Training in a loop of one's own, by a strategy or without: what each compressor ends with."""

import contextlib

import keras
import numpy as np
import tensorflow as tf
from compressors import COMPRESSORS, relu_network
from small import data

from tfstruct.distill import Distill


def by_hand(strategy) -> dict:
    """Kernels, masks and ranges by compressor, after two epochs of four steps on batches of eight."""
    return {name: _trained(strategy, make()) for name, make in COMPRESSORS.items() if name != "Distill"}


def _trained(strategy, compressor) -> dict:
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = relu_network(keras.optimizers.SGD(0.05))
        model.optimizer.build(model.trainable_variables)
    compressor.attach(model)
    assert not isinstance(compressor, Distill)

    @tf.function
    def train(inputs, labels):
        def step(inputs, labels):
            with tf.GradientTape() as tape:
                loss = keras.ops.sum((labels - model(inputs, training=True)) ** 2) / 32
            gradients = tape.gradient(loss, model.trainable_variables)
            model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

        if strategy:
            strategy.run(step, args=(inputs, labels))
        else:
            step(inputs, labels)

    batches = tf.data.Dataset.from_tensor_slices(data()).batch(8)
    for _ in range(2):
        for inputs, labels in strategy.experimental_distribute_dataset(batches) if strategy else batches:
            train(inputs, labels)
            compressor.step()
    ranges = getattr(compressor, "ranges", {})
    ranges = {name: list(map(float, ends)) for name, ends in ranges.items()} if isinstance(ranges, dict) else {}
    compressor.finish()
    kernels = [model.get_layer(name).kernel.numpy() for name in ("one", "two")]
    return {
        "kernels": [k.tolist() for k in kernels], "masks": [(np.asarray(k) != 0).tolist() for k in kernels],
        "ranges": ranges,
    }  # fmt: skip
