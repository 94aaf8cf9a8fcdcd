"""`inherit`: a student has what surgery leaves of its teacher."""

import keras
import numpy as np
import pytest
from keras import layers

from tfstruct.errors import ModelError
from tfstruct.initializers import inherit
from tfstruct.surgery import apply, plan_channels


def residual(stream=16, inner=24, classes=4, prefix="", joined=(6, 10), kernel=3) -> keras.Model:
    """Residuals, depthwise, a concatenation added to a stream, and a grouped convolution in a nested model."""
    inputs = keras.Input((8, 8, 3))

    def norm(x):
        return layers.ReLU()(layers.BatchNormalization()(x))

    x = norm(layers.Conv2D(stream, 3, padding="same", name=f"{prefix}stem")(inputs))
    y = norm(layers.Conv2D(inner, 1, use_bias=False, name=f"{prefix}widen")(x))
    y = layers.DepthwiseConv2D(kernel, padding="same", name=f"{prefix}depthwise")(y)
    x = layers.Add()([x, layers.Conv2D(stream, 1, name=f"{prefix}narrow")(y)])
    parts = [layers.Conv2D(n, 1, name=f"{prefix}part{i}")(x) for i, n in enumerate(joined)]
    whole = layers.Conv2D(sum(joined), 1, name=f"{prefix}whole")(x)
    x = layers.Add()([layers.Concatenate()(parts), whole])
    entry = keras.Input((8, 8, sum(joined)))
    z = layers.Conv2D(inner, 3, groups=2, name=f"{prefix}grouped")(entry)
    x = keras.Model(entry, norm(z), name=f"{prefix}block")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(classes, name=f"{prefix}logits")(x), name=f"{prefix}net")


def randomized(model):
    rng = np.random.default_rng(0)
    for v in model.variables:
        v.assign(
            rng.uniform(0.5, 1.5, v.shape) if "gamma" in v.name or "variance" in v.name else rng.normal(size=v.shape)
        )
    return model


X = np.random.default_rng(1).normal(size=(5, 8, 8, 3)).astype("float32")


@pytest.mark.parametrize("criterion", ["l2", "l1"])
def test_equals_surgery_of_the_same_widths(criterion):
    keras.utils.set_random_seed(0)
    teacher = randomized(residual())
    plan = plan_channels(teacher, 0.5, criterion=criterion)
    smaller = apply(teacher, plan)
    widths = {name: layer.filters for name in ("stem", "widen", "part0", "part1") if (layer := smaller.get_layer(name))}
    student = randomized(
        residual(widths["stem"], widths["widen"], prefix="s_", joined=(widths["part0"], widths["part1"]))
    )
    before = [w.numpy() for w in teacher.weights]
    taken = inherit(student, teacher, criterion)
    np.testing.assert_allclose(student(X), smaller(X), rtol=1e-5, atol=1e-5)
    assert taken == plan.keep
    for a, b in zip(teacher.weights, before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_of_the_same_widths_it_is_a_copy():
    teacher, student = randomized(residual()), residual(prefix="s_")
    taken = inherit(student, teacher)
    assert taken["stem"] == list(range(16)) and taken["block/grouped"] == list(range(24))
    np.testing.assert_array_equal(student(X), teacher(X))


def test_parts_of_a_concatenation_keep_their_own_widths():
    # The grouped convolution reads rows of 8 channels in the teacher (all of part0 and two of part1, the rest of
    # part1), of 5 in the student (all of part0 and one of part1, the rest).
    teacher, student = randomized(residual()), residual(joined=(4, 6), prefix="s_")
    taken = inherit(student, teacher)
    assert len(taken["part0"]) == 4 and len(taken["part1"]) == 6
    assert taken["whole"] == [*taken["part0"], *(6 + i for i in taken["part1"])]
    norms = [np.sqrt(np.square(teacher.get_layer(n).kernel.numpy()).sum(axis=(0, 1, 2))) for n in ("part1", "whole")]
    norm = norms[0] + norms[1][6:]
    rows = [norm[:2].argmax(), *(2 + np.argsort(norm[2:])[-5:])]
    assert taken["part1"] == sorted(int(i) for i in rows)


def test_rows_of_blocks_that_the_teacher_does_not_have():
    with pytest.raises(ModelError, match=r"The student has 1 channels around `.*`, the teacher 0 in their place"):
        inherit(residual(joined=(5, 3)), residual())


def test_by_data():
    teacher, student = randomized(residual()), residual(8, 12, prefix="s_")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    y = np.arange(5) % 4
    taken = inherit(student, teacher, "gradient", data=(X, y), loss=loss)
    assert len(taken["stem"]) == len(taken["narrow"]) == 8 and taken["stem"] == taken["narrow"]
    assert np.isfinite(student(X)).all()


@pytest.mark.parametrize(
    "student, message",
    [
        (lambda: residual(32), "The student has 32 channels around `stem`, the teacher 16"),
        (
            lambda: residual(classes=3),
            "1 channels narrower around `logits` than the teacher, where 0 can go: the model",
        ),
        (lambda: residual(kernel=5), r"`depthwise` of the student has weights of shapes \[\(5, 5, 24, 1\)"),
        (
            lambda: keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten()]),
            "`flatten.*` of the student is a Flatten",
        ),
        (
            lambda: keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(16, 3, padding="same")]),
            "the student has 1 operations, the teacher",
        ),
    ],
)
def test_models_that_differ(student, message):
    model = student()
    before = model.get_weights()
    with pytest.raises(ModelError, match=message):
        inherit(model, residual())
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
