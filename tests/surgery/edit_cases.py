"""What tests of exact edits share: models, and the comparison with the original."""

import keras
import numpy as np
from zoo import randomise


def chain(*parts, shape=(9, 9, 4), seed=0):
    """A Sequential model with random weights."""
    return randomise(keras.Sequential([keras.Input(shape), *parts]), seed)


def functional(build, shape=(9, 9, 4), seed=0):
    """`build(x)` gives the outputs."""
    inputs = keras.Input(shape, name="image")
    return randomise(keras.Model(inputs, build(inputs)), seed)


def inputs_of(model, n=3, seed=1):
    rng = np.random.default_rng(seed)
    drawn = [rng.normal(size=(n, *(d or 6 for d in x.shape[1:]))).astype("float32") for x in model.inputs]
    return drawn[0] if len(drawn) == 1 else drawn


def names(model):
    """Of its layers and those of nested models, inputs aside."""
    found = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found += names(layer)
        elif not isinstance(layer, keras.layers.InputLayer):
            found.append(layer.name)
    return found


def outputs_named(model):
    """The names of a functional model's outputs; a Sequential one tells none."""
    return getattr(model, "output_names", None)


def check(edit, model, inputs=None, tolerance=1e-5, **options):
    """Edits, and compares the outputs; the original keeps its weights."""
    weights = [w.numpy().copy() for w in model.weights]
    made = edit(model, **options)
    inputs = inputs_of(model) if inputs is None else inputs
    expected, got = (
        [np.asarray(y, "float64") for y in keras.tree.flatten(m(inputs, training=False))] for m in (model, made.model)
    )
    for a, b in zip(expected, got, strict=True):
        assert a.shape == b.shape and a.std() > 0
        np.testing.assert_allclose(b, a, rtol=0, atol=tolerance * np.abs(a).max())
    assert all(np.array_equal(w, v.numpy()) for w, v in zip(weights, model.weights, strict=True))
    assert made.max_difference.relative <= made.max_difference.allowed
    return made
