"""`LSUV`: weights scaled on data until every layer's output has variance 1."""

import contextlib

import keras
import numpy as np

from tfstruct.analyze.data_criteria import run
from tfstruct.analyze.inference import in_inference
from tfstruct.arguments import require_count, require_number
from tfstruct.errors import DataError, ModelError
from tfstruct.graph import Graph, trace
from tfstruct.graph.operation_traits import layers_with
from tfstruct.reporting import InPlaceReport
from tfstruct.reporting.tables import counted
from tfstruct.samples.for_model import samples_of

_KINDS = layers_with("dense", "einsum", "conv", "transposed", "depthwise", "separable")


@in_inference
def LSUV(
    model: keras.Model, data, *, tolerance: float = 0.1, iterations: int = 10, samples: int = 256, seed: int = 0
) -> InPlaceReport:
    """Gives a model layer-sequential unit variance: weights such that each layer's output has variance 1 on data.

    Every kernel of a dense layer or convolution becomes orthonormal, as (rows, filters), and its bias zero. Then, from
    the first layer to the last, on the outputs of those before:

        while |Var(z) - 1| > tolerance:  W <- W / sqrt(Var(z))

    with z the layer's output before its activation, the variance over samples, positions and channels. As z is linear
    in W, one division does unless rounding gets in. The model is changed; batch norms act as at inference. Layers that
    are frozen, recurrent and attention layers keep their weights. A layer that is called several times goes by its
    first call.

    Args:
        model: Sequential or functional.
        data: see `tfstruct.samples`; labels are not looked at.
        tolerance: how far from 1 a variance may be.
        iterations: at most so many divisions of a layer.
        samples: how many of the samples are used, all at once.
        seed: of the orthonormal matrices.

    Returns:
        `InPlaceReport`: the variance of each layer's z before and after, and the layers that kept their weights. Its
        value is the variances afterwards, a dict by path.

    Raises:
        ModelError: the model has no graph, or no such layer.
        DataError: data that do not fit, or on which a layer's output is constant.

    Source: Algorithm 1, arXiv:1511.06422.

    Example:
        >>> variances = tfstruct.initializers.LSUV(model, x)
        >>> abs(variances["hidden"] - 1) <= 0.1
        True
    """
    for name, value in (("iterations", iterations), ("samples", samples)):
        require_count(name, value)
    require_number("tolerance", tolerance, above=0, below=1)
    graph = trace(model)
    layers = {id(call.op): call.op for call in graph.calls if isinstance(call.op, _KINDS) and _trained(call.op)}
    if not layers:
        raise ModelError(f"`{model.name}` has no dense layer or convolution that can be trained.")
    inputs = samples_of(model, data, limit=samples).in_memory().inputs
    flat = [keras.ops.convert_to_tensor(v) for v in inputs]
    before = [(v, v.numpy()) for layer in layers.values() for v in layer.weights]
    try:
        for i, layer in enumerate(layers.values()):
            _orthonormal(layer, seed + i)
        first: dict[str, float] = {}
        for _ in range(iterations + 1):
            found, scaled = _scaled(graph, flat, layers, tolerance)
            first = first or found
            if not scaled:
                break
    except Exception:
        for variable, value in before:
            variable.assign(value)
        raise
    title = f"{model.name}: {counted(len(found), 'layer')} scaled on {counted(len(inputs[0]), 'sample')}"
    changes = tuple((path, f"variance {first[path]:.3g}, now {found[path]:.3g}") for path in found)
    others = {call.path: call.op for call in graph.calls if getattr(call.op, "weights", None)}
    skipped = tuple(
        (path, "it is frozen" if isinstance(op, _KINDS) else "it is no dense layer or convolution")
        for path, op in others.items()
        if id(op) not in layers
    )
    return InPlaceReport(title, changes, skipped, value=found)


def _trained(layer) -> bool:
    return layer.trainable and bool(layer.trainable_weights)


def _kernel(layer) -> keras.Variable:
    """The kernel that makes the output, linear in it."""
    return next(v for v in layer.weights if v.name in ("kernel", "pointwise_kernel"))


def _orthonormal(layer, seed: int) -> None:
    transposed, depthwise = (isinstance(layer, layers_with(kernel)) for kernel in ("transposed", "depthwise"))
    for variable in layer.trainable_weights:
        if variable.name == "bias":
            variable.assign(np.zeros(variable.shape))
        elif len(variable.shape) > 1:
            shape = list(variable.shape)
            if transposed:
                shape[-2:] = shape[:-3:-1]
            elif depthwise or variable.name == "depthwise_kernel":
                # The rows of a filter are its window.
                shape = [*shape[:-2], shape[-2] * shape[-1]]
            value = keras.initializers.Orthogonal(seed=seed)(shape, dtype="float32")
            value = np.swapaxes(value, -1, -2) if transposed else np.reshape(value, variable.shape)
            variable.assign(value)


def _scaled(graph: Graph, flat, layers, tolerance) -> tuple[dict[str, float], bool]:
    """One pass over the data, each layer divided in its turn; the variances before that, and whether one was."""
    found: dict[str, float] = {}
    divided: dict[int, float] = {}
    activations = {key: layer.activation for key, layer in layers.items()}

    def visit(call, outputs):
        if id(call.op) not in layers:
            return
        first = id(call.op) not in divided
        if first:
            z = keras.ops.convert_to_numpy(outputs[0]).astype("float64")
            variance = float(z.var())
            if not np.isfinite(variance) or variance < 1e-20:
                raise DataError(
                    f"The output of `{call.path}` has variance {variance:.3g} on these {len(z)} samples, which cannot "
                    "be scaled to 1. Give more samples, or finite ones that differ."
                )
            found[call.path] = variance
            far = abs(variance - 1) > tolerance
            divided[id(call.op)] = np.sqrt(variance) if far else 1.0
            if far:
                kernel = _kernel(call.op)
                kernel.assign(kernel / divided[id(call.op)])
                outputs[0] = outputs[0] / divided[id(call.op)]
        outputs[0] = activations[id(call.op)](outputs[0]) if activations[id(call.op)] is not None else outputs[0]

    with contextlib.ExitStack() as stack:
        for key, layer in layers.items():
            stack.callback(setattr, layer, "activation", activations[key])
            layer.activation = keras.activations.linear
        run(graph, list(flat), visit)
    return found, any(value != 1 for value in divided.values())
