"""What every optimizer has to do; a new one is a row in `rows.py`."""

import contracts
import keras
import numpy as np
import pytest
import tensorflow as tf
from optimizer_rows import ALL, BY_HAND, RATE, ROWS, descend

from tfstruct import optimizers

RESUMED = [pytest.param(n, marks=[] if n == "StructuredSparse" else pytest.mark.slow) for n in ALL]
WITHOUT_SAM = [name for name in ROWS if name != "SharpnessAware"]


def build(name: str):
    """A function that makes the small model compiled with the row's optimizer."""

    def make():
        keras.utils.set_random_seed(0)
        layers = keras.layers
        model = keras.Sequential(
            [
                keras.Input((8, 8, 2)),
                layers.Conv2D(8, 3, strides=2, use_bias=False, name="conv"),
                layers.BatchNormalization(name="norm"),
                layers.ReLU(name="relu"),
                layers.Flatten(name="flatten"),
                layers.Dense(4, name="logits"),
            ]
        )
        optimizer = ALL[name](model)
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
        attach(model)
        return model

    return make


def attach(model):
    optimizer = model.optimizer
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    if isinstance(optimizer, optimizers.SharpnessAware):
        optimizer.attach(model)
    return model


def cases():
    for name in ALL:
        for way in contracts.WAYS:
            if (name, way) == ("SharpnessAware", "tape"):  # a loop of its own, in test_sharpness_aware.py
                continue
            quick = way in ("jit", "mirrored") and name in ("ProximalSGD", "StructuredSparse")
            slow = way != "tape" and not quick
            yield pytest.param(name, way, marks=[pytest.mark.slow] if slow else [], id=f"{name}-{way}")


@pytest.mark.parametrize(("name", "way"), cases())
@pytest.mark.sweep(6)
def test_learns_in_every_way_to_train(name, way, second_device):
    model = contracts.assert_learns(build(name), way)
    if way == "mirrored":
        contracts.assert_replicas_agree(model)


@pytest.mark.parametrize("name", RESUMED)
def test_goes_on_where_it_was_saved(name, tmp_path, monkeypatch):
    load = keras.models.load_model
    monkeypatch.setattr(keras.models, "load_model", lambda path, **options: attach(load(path, **options)))
    contracts.assert_resumes(build(name), tmp_path)


@pytest.mark.parametrize("name", ALL)
def test_configuration_and_state_come_back(name):
    model = build(name)()
    optimizer = model.optimizer
    again = contracts.round_trip(optimizer)
    rng = np.random.default_rng(0)
    gradients = [[tf.constant(rng.normal(size=v.shape), "float32") for v in model.trainable_variables] for _ in "123"]
    for step in gradients[:2]:
        descend(optimizer, step, model.trainable_variables)
    again.build(model.trainable_variables)
    again.set_weights([variable.numpy() for variable in optimizer.variables])
    weights, results = model.get_weights(), []
    for one in (optimizer, again):
        model.set_weights(weights)
        descend(one, gradients[2], model.trainable_variables)
        results.append(model.get_weights())
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    assert any((a != b).any() for a, b in zip(weights, results[0], strict=True))


def kernel(value=None, name="kernel"):
    value = np.linspace(-1, 1, 12).reshape(4, 3) + 0.05 if value is None else value
    return keras.Variable(np.asarray(value, "float32"), name=name)


@pytest.mark.parametrize("name", BY_HAND)
def test_steps_by_hand(name):
    optimizer, variable = ROWS[name](), kernel()
    expected, state = variable.numpy().astype(float), {}
    rng = np.random.default_rng(1)
    for t in range(1, 6):
        gradient = rng.normal(size=(4, 3))
        optimizer.apply([tf.constant(gradient, "float32")], [variable])
        expected = BY_HAND[name](expected, gradient, state, t)
        np.testing.assert_allclose(variable.numpy(), expected, rtol=2e-5, atol=2e-6)


def test_momentum_by_hand():
    w = keras.Variable([1.0, 2.0])
    optimizer = optimizers.Momentum(0.5, beta=0.75)
    optimizer.apply([tf.constant([1.0, 6.0])], [w])  # v = g / 4
    np.testing.assert_array_equal(w.numpy(), [0.875, 1.25])
    optimizer.apply([tf.constant([0.0, 0.0])], [w])  # v = 3 g / 16
    np.testing.assert_array_equal(w.numpy(), [0.78125, 0.6875])


def test_gradient_descent_by_hand_stores_nothing():
    w = keras.Variable([1.0, 2.0])
    optimizer = optimizers.Momentum(0.5, beta=0)
    optimizer.apply([tf.constant([1.0, 6.0])], [w])
    np.testing.assert_array_equal(w.numpy(), [0.5, -1.0])
    assert len(optimizer.variables) == 2  # iterations, learning rate


@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam_is_keras_adam_to_the_bit(amsgrad):
    ours, theirs = kernel(), kernel()
    a = optimizers.Adam(0.01, amsgrad=amsgrad, weight_decay=0.1)
    b = keras.optimizers.Adam(0.01, amsgrad=amsgrad, weight_decay=0.1)
    rng = np.random.default_rng(0)
    for _ in range(5):
        gradient = tf.constant(rng.normal(size=(4, 3)), "float32")
        a.apply([gradient], [ours])
        b.apply([gradient], [theirs])
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert not np.array_equal(ours.numpy(), kernel().numpy())


def minimized(optimizer, loss, variables, steps):
    """The loss before and after a loop in one graph."""
    before = float(loss())
    optimizer.build(variables)

    @tf.function
    def run():
        for _ in tf.range(steps):
            if isinstance(optimizer, optimizers.SharpnessAware):
                optimizer.minimize(loss, variables)
                continue
            with tf.GradientTape() as tape:
                value = loss()
            optimizer.apply(tape.gradient(value, [v.value for v in variables]), variables)

    run()
    return before, float(loss())


@pytest.mark.parametrize("name", ROWS)
def test_rosenbrock(name):
    optimizer, variable = ROWS[name](), keras.Variable([-0.5, 0.6], name="bias")  # no kernel: not penalized
    optimizer.learning_rate = 2e-3 if "Adam" not in name else 2e-2
    if name == "SharpnessAware":
        optimizer.rho, optimizer.learning_rate = 1e-4, 5e-4  # the valley is narrow: steps that overshoot it swing
        optimizer.inner_optimizer.momentum = 0.9

    def loss():
        x, y = variable[0], variable[1]
        return (1 - x) ** 2 + 100 * (y - x * x) ** 2

    before, after = minimized(optimizer, loss, [variable], 8000)
    assert before > 14
    assert after < 1e-3
    np.testing.assert_allclose(variable.numpy(), [1, 1], atol=0.05)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.sweep(5)
def test_logistic_regression(name):
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(200, 5)), "float32")
    truth = np.array([1.0, -2.0, 0.5, 0.0, 0.0])
    y = tf.constant(rng.random(200) < 1 / (1 + np.exp(-x.numpy() @ truth - 0.5)), "float32")
    w, b = kernel(np.zeros((5, 1)), "kernel"), kernel(np.zeros(1), "bias")

    def loss():
        logits = tf.matmul(x, w.value)[:, 0] + b.value
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(y, logits))

    def least():  # Newton's method
        p, ones = np.zeros(6), np.c_[x.numpy(), np.ones(200)].astype(float)
        for _ in range(30):
            q = 1 / (1 + np.exp(-ones @ p))
            p = p - np.linalg.solve(ones.T * (q * (1 - q)) @ ones, ones.T @ (q - y.numpy()))
        q = 1 / (1 + np.exp(-ones @ p))
        return -np.mean(np.where(y.numpy() > 0, np.log(q), np.log(1 - q)))

    _, after = minimized(ROWS[name](), loss, [w, b], 3000)
    # Those that centralize keep the sum of the weights; penalties keep them smaller.
    allowed = {"GradientCentralization": 0.05, "ProximalSGD": 0.01, "ProximalAdam": 0.01, "SharpnessAware": 0.01}
    assert least() - 1e-6 <= after < least() + allowed.get(name, 2e-3)


@pytest.mark.parametrize("name", ROWS)
def test_sparse_gradients_of_embeddings(name):
    results = []
    value = np.linspace(-1, 1, 12).reshape(6, 2) + 0.05
    for sparse in (True, False):
        table, optimizer = kernel(value, "embeddings"), ROWS[name]()
        for rows in ([0, 2], [2, 5]):
            slices = tf.IndexedSlices(tf.constant([[1.0, -2.0], [0.5, 3.0]]), tf.constant(rows), tf.constant([6, 2]))
            if name == "SharpnessAware":

                def loss(slices=slices, table=table, sparse=sparse):
                    if sparse:
                        return tf.reduce_sum(tf.gather(table.value, slices.indices) * slices.values)
                    return tf.reduce_sum(table.value * tf.convert_to_tensor(slices))

                optimizer.minimize(loss, [table])
                continue
            optimizer.apply([slices if sparse else tf.convert_to_tensor(slices)], [table])
        results.append(table.numpy())
    np.testing.assert_allclose(*results, rtol=1e-6, atol=1e-7)
    assert np.abs(results[0] - value).max() > RATE / 10


@pytest.mark.parametrize("name", ROWS)
def test_weight_decay_acts(name):
    variable = keras.Variable([2.0, -4.0], name="bias")
    optimizer = ROWS[name](weight_decay=0.1)
    descend(optimizer, [tf.zeros(2)], [variable])
    np.testing.assert_allclose(variable.numpy(), [2 * (1 - 0.1 * RATE), -4 * (1 - 0.1 * RATE)], rtol=1e-6)


@pytest.mark.parametrize("name", WITHOUT_SAM)
def test_clipping_acts(name):
    clipped, plain = kernel(), kernel()
    gradient = np.linspace(-1, 1, 12).reshape(4, 3)
    if name == "GradientCentralization":  # clips what is left of the gradient
        gradient = gradient - gradient.mean(0)
    ROWS[name](clipvalue=0.1).apply([tf.constant(gradient, "float32")], [clipped])
    ROWS[name]().apply([tf.constant(np.clip(gradient, -0.1, 0.1), "float32")], [plain])
    np.testing.assert_allclose(clipped.numpy(), plain.numpy(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ROWS)
def test_moving_average_acts(name):
    variable = keras.Variable([2.0, -4.0], name="bias")
    optimizer = ROWS[name](use_ema=True, ema_momentum=0.5)
    values = []
    for _ in range(2):  # Lookahead's average is of the fast weights, which here are those after one step
        descend(optimizer, [tf.constant([1.0, 1.0])], [variable])
        values.append(variable.numpy())
    if name == "Lookahead":
        values[1] = values[0] - RATE
    optimizer.finalize_variable_values([variable])
    np.testing.assert_allclose(variable.numpy(), 0.5 * values[0] + 0.5 * values[1], rtol=1e-6)


@pytest.mark.parametrize("name", ROWS)
def test_gradient_accumulation_acts(name):
    parts, whole = kernel(), kernel()
    rng = np.random.default_rng(0)
    gradients = [tf.constant(rng.normal(size=(4, 3)), "float32") for _ in range(4)]
    a, b = ROWS[name](gradient_accumulation_steps=2), ROWS[name]()
    for first, second in (gradients[:2], gradients[2:]):
        before = parts.numpy()
        descend(a, [first], [parts])
        np.testing.assert_array_equal(parts.numpy(), before)
        descend(a, [second], [parts])
        descend(b, [(first + second) / 2], [whole])
    np.testing.assert_allclose(parts.numpy(), whole.numpy(), rtol=1e-5, atol=1e-6)
    assert int(a.iterations) == int(b.iterations) == 2


@pytest.mark.parametrize("name", ROWS)
def test_loss_scale_acts(name):
    scaled, plain = kernel(), kernel()
    gradient = tf.constant(np.linspace(-1, 2, 12).reshape(4, 3), "float32")
    a, b = ROWS[name](loss_scale_factor=64.0), ROWS[name]()
    if name == "SharpnessAware":
        descend(a, [gradient], [scaled])  # scales by itself
    else:
        np.testing.assert_array_equal(a.scale_loss(gradient), 64 * gradient)
        descend(a, [a.scale_loss(gradient)], [scaled])
    descend(b, [gradient], [plain])
    np.testing.assert_allclose(scaled.numpy(), plain.numpy(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ROWS)
def test_schedules_and_rates_that_are_set(name):
    optimizer, variable = ROWS[name](), keras.Variable([1.0], name="bias")
    optimizer.learning_rate = 0.0
    descend(optimizer, [tf.ones(1)], [variable])
    descend(optimizer, [tf.ones(1)], [variable])
    np.testing.assert_array_equal(variable.numpy(), [1.0])


def test_kerass_own_are_here():
    for name in ("SGD", "AdamW", "RMSprop", "Lion", "LossScaleOptimizer", "Muon"):
        assert getattr(optimizers, name) is getattr(keras.optimizers, name)


BAD = [
    (lambda o, s: o.Momentum(-0.1), r"`learning_rate` must be a finite number, 0 or larger.*-0.1"),
    (lambda o, s: o.Momentum(beta=1), r"`beta` must be a number in \[0, 1\). Received: 1"),
    (lambda o, s: o.Adam(beta_1=1.0), r"`beta_1`.*1.0"),
    (lambda o, s: o.Adam(beta_2=1.0), r"`beta_2`.*1.0"),
    (lambda o, s: o.Adam(epsilon=0.0), r"`epsilon` must be a finite number above 0"),
    (lambda o, s: o.Adam(float("nan")), r"`learning_rate`.*nan"),
    (lambda o, s: o.ProximalSGD("l1"), r"`penalty` must be an object of tfstruct.optimizers.proximal"),
    (lambda o, s: o.ProximalSGD([]), r"`penalty` must be an object"),
    (lambda o, s: o.ProximalSGD(o.proximal.L1(), momentum=1.0), r"`momentum`"),
    (lambda o, s: o.ProximalSGD(o.proximal.L1(), nesterov=True), r"no `nesterov`"),
    (lambda o, s: o.proximal.L1(-1.0), r"`strength` must be a finite number, 0 or larger. Received: -1.0"),
    (lambda o, s: o.proximal.L1(variables="kernel"), r"must be a list"),
    (lambda o, s: o.proximal.NM(4, 4), r"`n` must be below `m`"),
    (lambda o, s: o.Lookahead(s, sync_period=0), r"`sync_period` must be a whole number, 1 or larger"),
    (lambda o, s: o.Lookahead(s, slow_step=1.5), r"`slow_step` must be a number in \(0, 1\]"),
    (lambda o, s: o.Lookahead(s, weight_decay=0.1), r"weight_decay. Give it to the inner optimizer"),
    (lambda o, s: o.Lookahead(keras.optimizers.LossScaleOptimizer(s)), r"goes around the others"),
    (lambda o, s: o.Lookahead("nonsense"), r"nonsense"),
    (lambda o, s: o.SharpnessAware(s, rho=0), r"`rho` must be a finite number above 0"),
    (lambda o, s: o.GradientCentralization(s, exclude="norm"), r"must be a list"),
    (lambda o, s: o.StructuredSparse(s, "model"), r"Expected a keras.Model. Received: the path"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make(optimizers, SGD())


SGD = keras.optimizers.SGD


def test_variables_that_no_penalty_finds():
    optimizer = optimizers.ProximalSGD(optimizers.proximal.L1(variables=["nowhere"]))
    with pytest.raises(ValueError, match=r"parts of paths of kernel.*'nowhere'"):
        optimizer.build([kernel()])


@pytest.mark.parametrize("name", ROWS)
def test_constraints_hold_after_every_step(name):
    """Whatever an optimizer assigns: weights that were not zero before their mask came stay zero under it."""
    optimizer, variable = ROWS[name](), kernel()
    mask = tf.constant(np.arange(12).reshape(4, 3) % 2, "float32")
    rng = np.random.default_rng(0)
    for step in range(7):
        if step == 3:  # between two synchronisations of Lookahead
            variable.constraint = lambda w: w * mask
        descend(optimizer, [tf.constant(rng.normal(size=(4, 3)), "float32")], [variable])
        if step >= 3:
            np.testing.assert_array_equal(variable.numpy()[mask.numpy() == 0], 0.0)
    assert np.abs(variable.numpy()[mask.numpy() == 1]).min() > 0
