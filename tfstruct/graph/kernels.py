"""The kernels of a model that can be sparse, and how each is read as (taps, inputs, outputs)."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import keras
import numpy as np
import tensorflow as tf

from tfstruct.errors import ModelError
from tfstruct.graph.kinds import built_in_name
from tfstruct.graph.layer_tree import layer_paths
from tfstruct.graph.operation_traits import layers_with
from tfstruct.graph.plain_weights import check_plain
from tfstruct.keras_internals.layer_parts import stored_weight
from tfstruct.patterns import matches, names_layer

Which: TypeAlias = str | keras.Layer | Sequence | Callable | None

_DEPTHWISE, _SEPARABLE = layers_with("depthwise"), layers_with("separable")
_CONVOLUTIONS, _TRANSPOSED = layers_with("conv"), layers_with("transposed")
_CELLS = layers_with("cell")


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """A weight that multiplies what a layer reads.

    Attributes:
        name: the layer's path and the weight's name: `block/conv/kernel`.
        variable: the weight.
        order, shape: transposed by `order` and reshaped to `shape`, it is (taps, inputs, outputs).
        sums: whether each output sums over the inputs; not so in an embedding.
        plain: whether the layer computes with the weight as it is, as Keras's own does.
    """

    name: str
    variable: keras.Variable
    order: tuple[int, ...]
    shape: tuple[int, int, int]
    sums: bool = True
    plain: bool = True

    @property
    def pointwise(self) -> bool:
        """Whether it is the half of a separable convolution that mixes channels."""
        return self.name.endswith("/pointwise_kernel")

    def view(self, values: np.ndarray) -> np.ndarray:
        """An array shaped like the weight as (taps, inputs, outputs)."""
        return np.transpose(values, self.order).reshape(self.shape)

    def unview(self, values: np.ndarray) -> np.ndarray:
        """The way back."""
        moved = [self.variable.shape[i] for i in self.order]
        return np.transpose(values.reshape(moved), np.argsort(self.order))


def lent(variable: keras.Variable) -> np.ndarray:
    """The values of a weight, without a copy where TensorFlow lends them: to be read at once, and not to be kept."""
    return np.asarray(tf.convert_to_tensor(variable.value))


def kernels(model: keras.Model, layers: Which = None, depthwise: bool = False) -> list[Kernel]:
    """The kernels of dense, convolution, embedding, recurrent, attention and EinsumDense layers, each once.

    Args:
        model: any built model; layers inside nested models and layers are found too.
        layers: which: paths such as "block/conv", where `*` and `?` match and a nested model stands for all in it;
            layer objects; a list of these; or a predicate layer -> bool. None: all.
        depthwise: whether depthwise kernels count, which are small and sensitive. A depthwise layer that `layers` names
            counts anyway.

    Raises:
        ModelError: a name or object that is not in the model, no such kernel at all, or layers with LoRA weights or
            quantized by Keras.
    """
    check_plain(model)
    paths = layer_paths(model)
    chosen, named = _selected(model, paths, layers)
    found: dict[int, Kernel] = {}
    for path in chosen:
        for kernel in _of_layer(path, paths[path], depthwise or path in named):
            found.setdefault(id(kernel.variable), kernel)
    if not found:
        where = "" if layers is None else " among those chosen by `layers`"
        raise ModelError(
            f"`{model.name}` has no layer with a kernel that can be pruned{where}: dense, convolution, embedding, "
            "recurrent, attention or EinsumDense."
        )
    return list(found.values())


def _selected(model, paths, layers) -> tuple[list[str], set[str]]:
    if layers is None:
        return list(paths), set()
    if callable(layers) and not isinstance(layers, keras.Operation):
        return [path for path, layer in paths.items() if isinstance(layer, keras.Layer) and layers(layer)], set()
    if not isinstance(layers, (str, keras.Operation, Iterable)):
        raise ModelError(
            "`layers` must be the path of a layer such as 'conv', where `*` and `?` match, a layer, a list of these or "
            f"a function of a layer. Received: {layers!r}."
        )
    given = [layers] if isinstance(layers, (str, keras.Operation)) else list(layers)
    chosen: set[str] = set()
    named: set[str] = set()
    for one in given:
        if isinstance(one, str):
            hits = [path for path in paths if matches(one, path)]
        else:
            hits = [path for path, layer in paths.items() if layer is one]
        if not hits:
            label = one if isinstance(one, str) else getattr(one, "name", one)
            raise ModelError(f"`{model.name}` has no layer {label}. Its layers: {_some(list(paths))}.")
        named.update(path for path in hits if not isinstance(one, str) or names_layer(one, path))
        chosen.update(path for path in paths for hit in hits if path == hit or path.startswith(f"{hit}/"))
    return [path for path in paths if path in chosen], named


def _some(names: list[str], count: int = 12) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def _of_layer(path: str, layer, depthwise: bool) -> list[Kernel]:
    def kernel(name, shape, order=None, sums=True):
        variable = stored_weight(layer, name)
        order = tuple(range(len(variable.shape))) if order is None else order
        taps, inputs, outputs = (int(n) for n in shape)
        return Kernel(f"{path}/{name}", variable, order, (taps, inputs, outputs), sums, computed)

    computed = bool(built_in_name(layer))

    if isinstance(layer, _DEPTHWISE):
        shape = layer.kernel.shape
        return [kernel("kernel", (np.prod(shape[:-2]), 1, shape[-2] * shape[-1]))] if depthwise else []
    if isinstance(layer, _SEPARABLE):
        deep, wide = layer.depthwise_kernel.shape, layer.pointwise_kernel.shape
        found = [kernel("pointwise_kernel", (1, wide[-2], wide[-1]))]
        if depthwise:
            found.append(kernel("depthwise_kernel", (np.prod(deep[:-2]), 1, deep[-2] * deep[-1])))
        return found
    if isinstance(layer, _CONVOLUTIONS):
        shape = layer.kernel.shape
        return [kernel("kernel", (np.prod(shape[:-2]), shape[-2], shape[-1]))]
    if isinstance(layer, _TRANSPOSED):
        shape, rank = layer.kernel.shape, len(layer.kernel.shape)
        order = (*range(rank - 2), rank - 1, rank - 2)  # stored as (..., outputs, inputs)
        return [kernel("kernel", (np.prod(shape[:-2]), shape[-1], shape[-2]), order)]
    if isinstance(layer, keras.layers.Dense):
        return [kernel("kernel", (1, *stored_weight(layer).shape))]
    if isinstance(layer, keras.layers.EinsumDense):
        return [kernel("kernel", *einsum_view(layer.equation, stored_weight(layer).shape))]
    if isinstance(layer, keras.layers.Embedding):
        found = [kernel("embeddings", (1, *stored_weight(layer, "embeddings").shape), sums=False)]
        own = getattr(layer, "reverse_embeddings", None)  # of a ReversibleEmbedding whose weights are not tied
        return found if own is None else [*found, kernel("reverse_embeddings", (1, *own.shape))]
    if isinstance(layer, _CELLS):
        return [kernel(name, (1, *getattr(layer, name).shape)) for name in ("kernel", "recurrent_kernel")]
    return []


def einsum_view(equation: str, shape) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """Axes that the product keeps from both sides are taps, those that it sums over inputs, the others outputs."""
    left, result = equation.replace("...", "").replace(" ", "").split("->")
    data, weight = left.split(",")
    taps = [i for i, axis in enumerate(weight) if axis in data and axis in result]
    inputs = [i for i, axis in enumerate(weight) if axis not in result]
    outputs = [i for i, axis in enumerate(weight) if axis in result and axis not in data]

    def size(axes: list[int]) -> int:
        return int(np.prod([shape[i] for i in axes], dtype=int))

    return (size(taps), size(inputs), size(outputs)), (*taps, *inputs, *outputs)
