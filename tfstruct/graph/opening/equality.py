"""Whether an opened or closed model computes what the original does: outputs, outputs in training, gradients."""

import contextlib
import math
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from tfstruct.graph.differences import COARSEST, ROUNDING, largest_gap, largest_magnitude
from tfstruct.graph.layer_tree import states_kept
from tfstruct.graph.opening.recording import reason_of
from tfstruct.graph.operation_traits import traits_of
from tfstruct.keras_internals.layer_parts import all_layers
from tfstruct.keras_internals.recorded_calls import one_seed
from tfstruct.keras_internals.replacing import replaced_attributes

_GRADIENTS = 10 * ROUNDING
# Numbers in a weight up to which its whole gradient is compared. Of larger ones, which would take the memory of the
# weights twice, what a fixed random direction along all axes but the last makes of it: gone with its layer's backward.
_WHOLE = 1 << 16


def unequal(
    original: keras.Model,
    other: keras.Model,
    structure,
    twin: Callable[[keras.Variable], keras.Variable] = lambda variable: variable,
    *,
    small=None,
) -> str:
    """In what the two differ on random inputs; empty where they do not.

    In training dropout is at 0, both draw the same random numbers, and neither changes its statistics.

    Args:
        other: a model of the same variables, or of those that `twin` gives for the original's.
        structure: `keras.KerasTensor`s of the inputs, of known sizes that were not recorded.
        small: such of a smaller batch, of which outputs in training and gradients are compared, as these cost most.
            Those of `structure` are compared too where a weight has no gradient by the small batch: statistics of one
            sample say nothing about it.
    """
    exact = not {layer.compute_dtype for layer in all_layers(original)} & {"float16", "bfloat16"}
    outputs_allowed, gradients_allowed = (ROUNDING, _GRADIENTS) if exact else (COARSEST, COARSEST)
    weights = list(original.trainable_variables)
    others = [twin(w) for w in weights]
    batches = [structure] if small is None else [small, structure]
    for specs, derived in ((structure, False), *((batch, True) for batch in batches)):
        inputs = _random_inputs(specs)
        training = derived
        try:
            expected, its_gradients = _run(original, inputs, training, weights if derived else [])
        except Exception:
            if not training:
                raise
            training = False  # a layer in it runs in inference only
            expected, its_gradients = _run(original, inputs, training, weights)
        try:
            got, gradients = _run(other, inputs, training, others if derived else [])
        except Exception as error:  # operations that Keras runs in a `call` and not in a graph of its own
            return f"it fails with {reason_of(error)}"
        gap = _apart(expected, got)
        if not gap <= outputs_allowed:
            if not _apart(expected, _run(original, inputs, training, [])[0]) <= outputs_allowed:
                return "its model computes something else each time, on the same inputs, so it is random"
            batch = keras.tree.flatten(specs)[0].shape[0]
            where = f"{' in training' if derived else ''} for a batch of {batch}"
            return f"its outputs{where} differ by {gap:.1e} of the largest"
        gap = _apart(its_gradients, gradients)
        if not gap <= gradients_allowed:
            return f"its gradients differ by {gap:.1e} of the largest"
        if derived and all(np.any(g) for g in its_gradients):
            break
    return ""


def _random_inputs(structure):
    rng = np.random.default_rng(0)

    def draw(spec):
        shape = spec.shape
        dtype = keras.backend.standardize_dtype(spec.dtype)
        if dtype == "bool":
            return keras.ops.convert_to_tensor(rng.random(shape) < 0.7)
        if "int" in dtype:
            return keras.ops.convert_to_tensor(rng.integers(0, 2, shape), dtype)
        return keras.ops.convert_to_tensor(rng.normal(size=shape), dtype)

    return keras.tree.map_structure(draw, structure)


def _run(model: keras.Model, inputs, training: bool, weights: list[keras.Variable]):
    """Outputs, the sum of added losses being the last, and the gradients of a fixed sum of them by these variables; of
    large ones see `_projected`."""
    # As tensors: a variable that a strategy mirrors has no gradient outside of its replicas.
    values = [tf.convert_to_tensor(w.value) for w in weights]
    large = [math.prod(w.shape) > _WHOLE for w in weights]
    sources = [tf.zeros(v.shape[-1:], v.dtype) if big else v for v, big in zip(values, large, strict=True)]
    tape = tf.GradientTape()
    with contextlib.ExitStack() as stack:
        for scope in (states_kept(model), _without_dropout(model), one_seed()):
            stack.enter_context(scope)
        if weights:  # it keeps every activation
            stack.enter_context(tape)
            tape.watch(sources)
        values = [_projected(v, x) if big else v for v, x, big in zip(values, sources, large, strict=True)]
        scope = keras.StatelessScope(list(zip(weights, values, strict=True)), collect_losses=True)
        stack.enter_context(scope)
        outputs = [x for x in keras.tree.flatten(model(inputs, training=training)) if "float" in str(x.dtype)]
        if scope.losses:
            outputs.append(tf.add_n([tf.reduce_sum(tf.cast(x, "float32")) for x in scope.losses]))
        loss = 0.0
        for output in outputs:
            factors = np.random.default_rng(1).normal(size=output.shape)
            loss += tf.reduce_sum(tf.cast(output, "float32") * tf.constant(factors, "float32"))
    found = tape.gradient(loss, sources) if sources and outputs else []
    gradients = [
        np.zeros(x.shape) if g is None else tf.convert_to_tensor(g).numpy()
        for g, x in zip(found, sources, strict=False)
    ]
    return [np.asarray(keras.ops.cast(x, "float32"), np.float64) for x in outputs], gradients


@tf.custom_gradient
def _projected(value, source):
    """`value`, so that the gradient by `source` is d @ g: g is that by the value as a matrix of its last axis, d a row
    of random numbers, the same each time."""

    def gradient(g):
        rows = math.prod(value.shape[:-1])
        d = tf.constant(np.random.default_rng(2).normal(size=rows) / math.sqrt(rows), source.dtype)
        if isinstance(g, tf.IndexedSlices) and len(value.shape) == 2:  # of rows that were looked up
            return None, tf.linalg.matvec(g.values, tf.gather(d, g.indices), transpose_a=True)
        g = tf.reshape(tf.convert_to_tensor(g), (rows, value.shape[-1]))
        return None, tf.linalg.matvec(g, d, transpose_a=True)

    return tf.identity(value), gradient


@contextlib.contextmanager
def _without_dropout(model: keras.Model) -> Iterator[None]:
    """While it is open, Keras's dropout layers drop nothing: which elements go depends on the shapes that they see."""
    with contextlib.ExitStack() as stack:
        for layer in all_layers(model):
            if traits_of(layer).training_only and isinstance(vars(layer).get("rate"), float):
                stack.enter_context(replaced_attributes(layer, rate=0.0))
        yield


def _apart(expected: list[np.ndarray], got: list[np.ndarray]) -> float:
    """The largest difference relative to the largest magnitude of all; infinite where shapes differ, or where a value
    is finite in one of them only."""
    if len(expected) != len(got):
        return np.inf
    both = list(zip(expected, got, strict=True))
    gap = max((max(largest_gap(a, b), largest_gap(b, a)) for a, b in both), default=0.0)
    return gap / max(largest_magnitude(expected), 1e-30) if gap else 0.0
