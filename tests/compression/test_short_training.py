"""Adam with one operation a variable takes the steps of Keras's."""

import keras
import numpy as np
import tensorflow as tf

from tfstruct.compression.alternatives.short_training import ShortAdam

rng = np.random.default_rng(0)


def test_the_steps_of_keras():
    values = [rng.normal(size=(7, 3)), rng.normal(size=(3,)), rng.normal(size=(5, 2))]
    ours, theirs = ([keras.Variable(v, dtype="float32") for v in values] for _ in range(2))
    for one in (ours, theirs):
        one[1].constraint = keras.constraints.NonNeg()
    steps = 6
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, steps))
    optimizer.build(theirs)
    short = ShortAdam(ours, 0.1, steps)
    graph = tf.function(short.apply)
    for number in range(steps + 2):  # the last at a rate of 0
        rows = tf.constant([0, 3, 4])  # each once: of a row that comes twice Keras adds the squares
        slopes = [tf.constant(rng.normal(size=v.shape), "float32") for v in values[:2]]
        looked_up = tf.IndexedSlices(tf.constant(rng.normal(size=(3, 2)), "float32"), rows, tf.constant([5, 2]))
        (graph if number % 2 else short.apply)([*slopes, looked_up])
        optimizer.apply([*slopes, looked_up], theirs)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-6)
    assert ours[1].numpy().min() >= 0


def test_half_precision():
    v = keras.Variable(np.ones(4), dtype="bfloat16")
    ShortAdam([v], 0.5, 3).apply([tf.constant([1.0, -1.0, 2.0, 0.0], "bfloat16")])
    np.testing.assert_allclose(tf.cast(v.value, "float32"), [0.5, 1.5, 0.5, 1.0], atol=0.01)
