"""How far two models are apart on random inputs."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator

import keras
import numpy as np

from tfstruct.errors import ModelError, TfstructError
from tfstruct.graph import Graph
from tfstruct.graph.differences import COARSEST, ROUNDING, largest_gap, largest_magnitude
from tfstruct.graph.layer_tree import states_kept
from tfstruct.keras_internals.graph_nodes import functional_inside
from tfstruct.keras_internals.layer_parts import all_layers
from tfstruct.keras_internals.recorded_calls import one_seed

_UNKNOWN_SIZE = 32
_SAMPLES = 4
_WORK = 2e10  # multiply-accumulates of one run; larger models are run on fewer samples


@dataclasses.dataclass(frozen=True)
class Difference:
    """The largest difference between two models' outputs.

    Attributes:
        absolute: max |a - b|.
        relative: max |a - b| / max |a|, of the output where that is largest.
        allowed: the relative difference that rounding explains: 1e-5, or more where the model computes in half
            precision, or where it differs by more and answers to a rounding of its inputs by more.
        is_random: tells whether the original differs from itself on the same inputs.
    """

    absolute: float
    relative: float
    allowed: float
    is_random: Callable[[], bool] = dataclasses.field(default=lambda: False, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.absolute:.2g} ({self.relative:.1e} of the output's largest magnitude)"


def difference(graph: Graph, other: keras.Model, seed: int = 0) -> Difference:
    """Runs the traced model and another on random inputs: standard normal, and large ones; ids within their tables."""
    rng = np.random.default_rng(seed)
    eps = _coarsest(graph)
    scales = (1.0, 100.0) if eps < 1e-6 else (1.0, 10.0)
    least = max(ROUNDING, 32 * eps)
    found: list[Difference] = []
    for scale in scales:
        inputs = draw(graph, rng, scale, _samples(graph))
        floats = any(np.issubdtype(x.dtype, np.floating) for x in inputs)
        expected, got = (_run(model, inputs) for model in (graph.model, other))
        apart = [_apart(a, b) for a, b in zip(expected, got, strict=True)]
        allowed = [least] * len(apart)
        if floats and any(relative > least for _, relative in apart):  # how far rounding moves them decides
            nudged = [x * (1 + eps) if np.issubdtype(x.dtype, np.floating) else x for x in inputs]
            rounded = _run(graph.model, [x.astype(y.dtype) for x, y in zip(nudged, inputs, strict=True)])
            allowed = [max(least, 32 * _apart(a, c)[1]) for a, c in zip(expected, rounded, strict=True)]
        found += [Difference(*gap, most) for gap, most in zip(apart, allowed, strict=True)]
        if not floats:
            break  # nothing that another scale changes
    # Where rounding alone moves an output by more than a little, equality cannot be judged; elsewhere it is.
    judged = [one for one in found if one.allowed <= COARSEST] or found
    explained = min(max(one.allowed for one in judged), COARSEST)
    random = functools.partial(_is_random, graph.model, inputs)
    return Difference(max(one.absolute for one in judged), max(one.relative for one in judged), explained, random)


def certify(found: Difference | None, name: str) -> None:
    """Raises TfstructError if a model that has to be equal is not, and ModelError where that cannot be known."""
    if found is None:
        raise TfstructError(
            f"The outputs of the new `{name}` have other shapes. Please report this as a bug of tfstruct."
        )
    if found.relative <= found.allowed:
        return
    if found.is_random():
        raise ModelError(
            f"`{name}` computes something else each time, on the same inputs and in inference, so it cannot be checked "
            f"that the new model is equal: they differ by {found}. Expected random numbers of `keras.random` only "
            "(those can be drawn alike), or none in inference: make the layer draw `if training`."
        )
    raise TfstructError(
        f"The new `{name}` differs from the original by {found}, where rounding explains {found.allowed:.1e}. It is "
        "not handed out; please report this as a bug of tfstruct."
    )


def _apart(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    gap = largest_gap(a, b)
    return gap, gap / max(largest_magnitude([a]), 1e-30) if gap else 0.0


def _run(model: keras.Model, flat: list[np.ndarray]) -> list[np.ndarray]:
    return _outputs(model, flat)


def _is_random(model: keras.Model, flat: list[np.ndarray]) -> bool:
    first, second = _outputs(model, flat), _outputs(model, flat)
    return any(_apart(a, b)[0] > 0 for a, b in zip(first, second, strict=True))


def _outputs(model: keras.Model, flat: list[np.ndarray]) -> list[np.ndarray]:
    structure = (functional_inside(model) or model).input
    given = keras.tree.pack_sequence_as(structure, [keras.ops.convert_to_tensor(x) for x in flat])
    with states_kept(model), _not_drawing(model), one_seed():
        for layer in all_layers(model):
            if getattr(layer, "stateful", False) and hasattr(layer, "reset_states"):
                layer.reset_states()  # both models from the same
        outputs = keras.tree.flatten(model(given, training=False))
    return [keras.ops.convert_to_numpy(x).astype(np.float64) for x in outputs]


@contextlib.contextmanager
def _not_drawing(model: keras.Model) -> Iterator[None]:
    """Context manager: layers that draw random numbers in inference (`tfstruct.layers.MonteCarloDropout`) are switched
    off."""
    found = [x for x in all_layers(model) if getattr(x, "active_in_inference", False) is True]
    try:
        for layer in found:
            layer.active_in_inference = False
        yield
    finally:
        for layer in found:
            layer.active_in_inference = True


def _coarsest(graph: Graph) -> float:
    """The rounding step of the model's least precise number format."""
    steps = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23}
    used = {getattr(call.op, "compute_dtype", None) for call in graph.calls}
    return max((steps[x] for x in used if x in steps), default=2.0**-52)


def _samples(graph: Graph) -> int:
    """On how many samples a model is run."""
    macs = sum(factor * math.prod(map(len, labels)) for call in graph.calls for factor, labels in call.costs)
    return int(min(max(_WORK // macs, 1), _SAMPLES)) if macs > 0 else _SAMPLES  # not where sizes are open: NaN


def draw(graph: Graph, rng: np.random.Generator, scale: float = 1.0, samples: int = _SAMPLES) -> list[np.ndarray]:
    """Draws one array for each input: normal numbers times `scale`, or ids if the input indexes a table."""
    ids = _ids(graph)
    arrays = []
    for tensor, channels in zip(graph.body.functional.inputs, graph.body.inputs, strict=True):
        first, *rest = tensor.shape
        shape = (first or samples, *(n or _UNKNOWN_SIZE for n in rest))
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        bound = ids.get(channels.key)
        if dtype == "string":
            value = rng.choice(["a", "b", "c"], shape)
        elif dtype == "bool":
            value = rng.random(shape) < 0.5
        elif bound is not None or "int" in dtype:
            value = rng.integers(0, bound or 8, shape).astype(dtype)
        else:
            value = (rng.normal(size=shape) * scale).astype("float32" if dtype == "bfloat16" else dtype)
        arrays.append(value)
    return arrays


def _ids(graph: Graph) -> dict[int, int]:
    """Tensor key -> number of rows of the smallest embedding table that the tensor's ids index directly."""
    bounds: dict[int, int] = {}
    for call in reversed(graph.calls):
        own = [getattr(call.op, name, None) for name in ("input_dim", "num_tokens")]
        found = [n for n in own if isinstance(n, int)]
        if not found and not getattr(call.op, "weights", ()):
            found = [bounds[x.key] for x in call.outputs if x.key in bounds]
        for tensor in call.inputs if found else ():
            bounds[tensor.key] = min(*found, bounds.get(tensor.key, found[0]))
    return bounds
