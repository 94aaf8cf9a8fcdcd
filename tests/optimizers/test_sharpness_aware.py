"""`SharpnessAware` against NumPy, in `fit` and in a loop."""

import contracts
import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstruct import optimizers

SGD = keras.optimizers.SGD
layers = keras.layers


def test_a_step_by_hand():
    a, b = keras.Variable([3.0]), keras.Variable([2.0])
    optimizer = optimizers.SharpnessAware(SGD(0.1), rho=0.5)
    # loss = a^2 / 2 + b^2: gradient (3, 4), of norm 5; at (3.3, 2.4) it is (3.3, 4.8).
    loss = optimizer.minimize(lambda: tf.reduce_sum(a.value**2 / 2 + b.value**2), [a, b])
    assert float(loss) == 8.5
    np.testing.assert_allclose([a.numpy()[0], b.numpy()[0]], [3 - 0.33, 2 - 0.48], rtol=1e-6)
    assert int(optimizer.iterations) == 1


def test_rests_where_the_gradient_is_zero():
    w = keras.Variable([0.0, 0.0])
    optimizers.SharpnessAware(SGD(0.1)).minimize(lambda: tf.reduce_sum(w.value**2), [w])
    np.testing.assert_array_equal(w.numpy(), 0)


def test_weight_decay_and_momentum_are_of_the_weights_themselves():
    w = keras.Variable([1.0])
    optimizer = optimizers.SharpnessAware(SGD(0.1, momentum=0.5, weight_decay=0.1), rho=0.5)
    expected, v = 1.0, 0.0
    for _ in range(3):
        optimizer.minimize(lambda: w.value[0] ** 2, [w])
        v = 0.5 * v - 0.1 * 2 * (expected + 0.5)
        expected = expected * (1 - 0.01) + v
        np.testing.assert_allclose(w.numpy(), [expected], rtol=1e-5)


def network():
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(4, 3, strides=2, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Dropout(0.3, seed=7, name="drop"),
            layers.Flatten(name="flatten"),
            layers.Dense(4, name="logits"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizers.SharpnessAware(SGD(0.05), rho=0.1), loss, metrics=["accuracy"], jit_compile=False)
    return model


def loop(model, x, y):
    """Two epochs; the mean loss of each."""
    optimizer = model.optimizer
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(inputs, labels):
        return optimizer.minimize(
            lambda: model.loss(labels, model(inputs, training=True)),
            model.trainable_variables,
            state=model.non_trainable_variables,
        )

    losses = []
    for _ in range(2):
        batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(contracts.BATCH)
        losses.append(np.mean([float(step(*batch)) for batch in batches]))
    assert step.experimental_get_tracing_count() == 1
    return losses


def by_hand(model, x, y):
    """The same, with a second copy of the model for the gradient uphill."""
    twin = network()
    for start in [*range(0, 64, 16)] * 2:
        inputs, labels = x[start : start + 16], y[start : start + 16]
        twin.set_weights(model.get_weights())
        seeds = [(a, b) for a, b in zip(model.non_trainable_variables, twin.non_trainable_variables, strict=True)]
        for a, b in seeds:
            b.assign(a)
        with tf.GradientTape() as tape:
            loss = model.loss(labels, model(inputs, training=True))
        uphill = tape.gradient(loss, model.trainable_variables)
        norm = np.sqrt(sum((g.numpy() ** 2).sum() for g in uphill))
        for v, g in zip(twin.trainable_variables, uphill, strict=True):
            v.assign_add(0.1 * g / norm)
        with tf.GradientTape() as tape:
            loss = model.loss(labels, twin(inputs, training=True))
        for v, g in zip(model.trainable_variables, tape.gradient(loss, twin.trainable_variables), strict=True):
            v.assign_sub(0.05 * g)
    return model


def test_fit_is_the_loop_is_the_formula():
    x, y = contracts.data()
    fitted, looped, formula = network(), network(), network()
    fitted.optimizer.attach(fitted)
    history = fitted.fit(x, y, batch_size=contracts.BATCH, epochs=2, shuffle=False, verbose=0).history
    losses = loop(looped, x, y)
    by_hand(formula, x, y)
    np.testing.assert_allclose(history["loss"], losses, rtol=1e-5)
    assert 0 <= history["accuracy"][-1] <= 1
    for a, b, c in zip(fitted.get_weights(), looped.get_weights(), formula.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(a, c, rtol=1e-4, atol=1e-5)


def test_without_a_second_gradient_it_says_so():
    model = network()
    with pytest.raises(RuntimeError, match=r"two gradients a step. Before `fit`, call `optimizer.attach\(model\)`"):
        model.fit(*contracts.data(), verbose=0)


def test_attach_refuses_other_models():
    model = network()
    optimizer = model.optimizer
    with pytest.raises(ValueError, match="is not compiled with this optimizer"):
        optimizers.SharpnessAware(SGD(0.1)).attach(model)

    class Own(keras.Model):
        def train_step(self, data):
            return {}

    own = Own()
    own.compile(optimizer)
    with pytest.raises(ValueError, match="has a `train_step` of its own"):
        optimizer.attach(own)


def test_detach_gives_keras_its_step_back():
    x, y = contracts.data()
    model, plain = network(), network()
    model.optimizer.attach(model)
    model.optimizer.detach(model)
    for one in (model, plain):
        one.compile(SGD(0.05), one.loss, jit_compile=False)
        one.fit(x, y, batch_size=32, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_replicas_climb_together(second_device):
    x, y = contracts.data()

    def build():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((8, 8, 2)), layers.Flatten(), layers.Dense(4)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizers.SharpnessAware(SGD(0.05), rho=0.5), loss, jit_compile=False)
        model.optimizer.attach(model)
        return model

    one, _ = contracts.trained(build, "fit")
    two, _ = contracts.trained(build, "mirrored")
    contracts.assert_replicas_agree(two)
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert len(x) == len(y)
