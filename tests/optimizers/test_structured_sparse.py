"""`StructuredSparse`: exactly the given number of channels ends at zero, and `shrink` removes them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstruct import optimizers
from tfstruct.errors import ArgumentError, ModelError
from tfstruct.graph import trace
from tfstruct.surgery import shrink

layers = keras.layers
SGD = keras.optimizers.SGD


def network():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="norm1")(x))
    y = layers.Conv2D(8, 1, activation="relu", name="widen")(x)
    y = layers.ReLU()(layers.BatchNormalization(name="norm2")(layers.DepthwiseConv2D(3, padding="same", name="dw")(y)))
    x = layers.Add()([x, layers.Conv2D(6, 1, name="narrow")(y)])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3, name="out")(layers.Dense(6, activation="relu", name="hidden")(x)))


def trainer(model, optimizer):
    """A function that trains for some steps, traced once."""
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(16, 6, 6, 2)), "float32")
    y = tf.constant(rng.integers(0, 3, 16))
    optimizer.build(model.trainable_variables)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

    return lambda steps: [step() for _ in range(steps)]


def zero_channels(model) -> dict[str, np.ndarray]:
    """By group, which channels are zero in all that makes them."""
    groups = {
        "stem": ["stem/kernel", "norm1/gamma", "norm1/beta", "narrow/kernel", "narrow/bias"],
        "widen": ["widen/kernel", "widen/bias", "dw/bias", "norm2/gamma", "norm2/beta"],
        "hidden": ["hidden/kernel", "hidden/bias"],
    }
    values = {v.path: v.numpy().reshape(-1, v.shape[-1]) for v in model.trainable_variables}
    values["dw/kernel"] = None
    return {name: np.all([(values[p] == 0).all(0) for p in paths], 0) for name, paths in groups.items()}


INNER = {
    "SGD": lambda: SGD(0.05, momentum=0.9, weight_decay=1e-3),
    "AdamW": lambda: keras.optimizers.AdamW(0.01),
}


@pytest.mark.parametrize("inner", ["SGD", pytest.param("AdamW", marks=pytest.mark.slow)])
def test_reaches_the_number_and_shrink_removes_them(inner):
    model = network()
    optimizer = optimizers.StructuredSparse(INNER[inner](), model, 0.5, warmup_steps=2, pruning_steps=12, periods=3)
    assert optimizer.zero_channels == 10  # of 6 + 8 + 6
    train = trainer(model, optimizer)
    for steps, expected in ((2, 0), (4, 3), (4, 6), (4, 10), (5, 10)):
        train(steps)
        zero = zero_channels(model)
        assert sum(z.sum() for z in zero.values()) == expected
        assert optimizer.zeros() == {name: z.sum() for name, z in zero.items()}
    assert all(not z.all() for z in zero.values())
    smaller = shrink(model)
    x = np.random.default_rng(5).normal(size=(4, 6, 6, 2)).astype("float32")
    np.testing.assert_allclose(smaller.model(x), model(x), rtol=1e-4, atol=1e-5)
    makes = trace(smaller.model).makes
    for name, z in zero.items():
        assert len(makes[name]) == (~z).sum()


def test_decays_by_hand():
    model = keras.Sequential([keras.Input((1,)), layers.Dense(3, activation="relu", name="h"), layers.Dense(1)])
    optimizer = optimizers.StructuredSparse(SGD(0.1), model, channels=1, warmup_steps=1, pruning_steps=4, periods=1)
    model.set_weights([np.array([[3.0, 1.0, 2.0]]), np.array([0.6, 0.2, 0.4]), np.ones((3, 1)), np.zeros(1)])
    none = [tf.zeros(v.shape) for v in model.trainable_variables]
    for left in (1, 3 / 4, 2 / 4, 1 / 4, 0, 0):
        optimizer.apply(none, model.trainable_variables)
        np.testing.assert_allclose(model.get_weights()[0], [[3, left, 2]], rtol=1e-6)
        np.testing.assert_allclose(model.get_weights()[1], [0.6, 0.2 * left, 0.4], rtol=1e-6)
    np.testing.assert_array_equal(model.get_weights()[2], 1)
    pushed = [tf.ones(v.shape) for v in model.trainable_variables]
    optimizer.apply(pushed, model.trainable_variables)  # the others train on, this one stays
    np.testing.assert_allclose(model.get_weights()[0], [[2.9, 0, 1.9]], rtol=1e-6)


def test_ties_and_equal_weights_reach_the_number_too():
    model = network()
    model.set_weights([np.ones(w.shape) for w in model.get_weights()])
    optimizer = optimizers.StructuredSparse(SGD(0.0), model, channels=17, pruning_steps=2, periods=2)
    none = [tf.zeros(v.shape) for v in model.trainable_variables]
    for _ in range(2):
        optimizer.apply(none, model.trainable_variables)
    zero = zero_channels(model)
    assert sum(z.sum() for z in zero.values()) == 17  # all but one of each group
    assert all((~z).sum() == 1 for z in zero.values())


def test_accumulated_batches_are_one_step():
    whole, parts = network(), network()
    options = {"channels": 6, "warmup_steps": 1, "pruning_steps": 4, "periods": 2}
    a = optimizers.StructuredSparse(SGD(0.1), whole, **options)
    b = optimizers.StructuredSparse(SGD(0.1, gradient_accumulation_steps=2), parts, **options)
    rng = np.random.default_rng(0)
    for _ in range(6):
        gradients = [tf.constant(rng.normal(size=v.shape), "float32") for v in whole.trainable_variables]
        a.apply(gradients, whole.trainable_variables)
        b.apply(gradients, parts.trainable_variables)
        b.apply(gradients, parts.trainable_variables)
        for x, y in zip(whole.get_weights(), parts.get_weights(), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    assert sum(z.sum() for z in zero_channels(parts).values()) == 6


def test_moving_averages_have_the_zeros():
    model = network()
    inner = SGD(0.05, use_ema=True, ema_momentum=0.9)
    optimizer = optimizers.StructuredSparse(inner, model, channels=8, pruning_steps=4, periods=2)
    none = [tf.zeros(v.shape) for v in model.trainable_variables]
    for _ in range(6):
        optimizer.apply(none, model.trainable_variables)
    optimizer.finalize_variable_values(model.trainable_variables)
    assert sum(z.sum() for z in zero_channels(model).values()) == 8


def test_what_cannot_go_is_left_alone():
    inputs = keras.Input((6,))
    x = layers.LayerNormalization(name="ln")(layers.Dense(5, activation="relu", name="counted")(inputs))
    x = layers.Dense(4, activation="sigmoid", name="half")(x)
    x = layers.BatchNormalization(scale=False, name="no_gamma")(layers.Dense(4, name="shifted")(x))
    x = layers.Dense(4, activation="relu", name="fixed", trainable=False)(x)
    x = layers.Dense(4, activation="relu", name="free")(x)
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    optimizer = optimizers.StructuredSparse(SGD(0.1), model, target=0.5)
    assert optimizer.units.groups == (("free", 4),)
    with pytest.raises(ModelError, match="Group 'half' has no channels"):
        optimizers.StructuredSparse(SGD(0.1), model, groups=["half"])


@pytest.mark.parametrize("target", [0, 1.0, -0.1, 2, 18, 0.99, 0.01, True, "half", float("nan")])
def test_targets_out_of_reach(target):
    said = r"`target` must be a share in \(0, 1\) of the 20 channels.* from 1 to 17.*Received"
    with pytest.raises(ArgumentError, match=said):
        optimizers.StructuredSparse(SGD(0.1), network(), target)


@pytest.mark.parametrize("channels", [0, 18, 2.0, True, "two"])
def test_numbers_of_channels_out_of_reach(channels):
    with pytest.raises(ArgumentError, match=r"`channels` must be a whole number from 1 to 17\. Received"):
        optimizers.StructuredSparse(SGD(0.1), network(), channels=channels)
    with pytest.raises(ArgumentError, match="Give either `target` or `channels`"):
        optimizers.StructuredSparse(SGD(0.1), network(), 0.5, channels=channels)


def test_a_file_of_an_earlier_version():
    """It has the number of channels as `target`."""
    optimizer = optimizers.StructuredSparse(SGD(0.1), network(), channels=4)
    config = optimizer.get_config()
    assert config["channels"] == 4 and "target" not in config
    for one in (config, {**{k: v for k, v in config.items() if k != "channels"}, "target": 4}):
        assert optimizers.StructuredSparse.from_config(one).zero_channels == 4


def test_phases_without_steps():
    with pytest.raises(ValueError, match=r"`pruning_steps` must be at least `periods`. Received: 5 and 10."):
        optimizers.StructuredSparse(SGD(0.1), network(), pruning_steps=5)
    with pytest.raises(ValueError, match=r"`warmup_steps` must be a whole number, 0 or larger. Received: -1."):
        optimizers.StructuredSparse(SGD(0.1), network(), warmup_steps=-1)
