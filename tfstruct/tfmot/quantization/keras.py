"""`tfmot.quantization.keras`: training with the rounding of the 8-bit file, over `tfstruct.quantize.Twin`."""

import contextlib
import warnings
from collections.abc import Iterator

import keras
import numpy as np

from tfstruct.callbacks import Cluster, Prune
from tfstruct.callbacks.unprotected import unprotected
from tfstruct.errors import ArgumentError, ModelError
from tfstruct.graph.copying import copied
from tfstruct.graph.kernels import kernels
from tfstruct.graph.layer_tree import layer_paths
from tfstruct.quantize import Scheme, Twin
from tfstruct.schedules import ConstantRatio
from tfstruct.tfmot import marked as marks
from tfstruct.tfmot.experimental.combine import QuantizeScheme

_MARK = "quantized"
_SCHEME = "Say it as data: tfstruct.callbacks.QuantizeAware(tfstruct.quantize.Scheme(layers={'head': 'float32'}, ...))."
__getattr__ = marks.absent(
    dict.fromkeys(
        (
            "QuantizeConfig", "QuantizeWrapper", "QuantizeWrapperV2", "QuantizeRegistry", "QuantizeLayoutTransform",
            "quantizers", "default_8bit", "graph_transformations", "collab_opts", "experimental",
            "fix_input_output_range", "remove_input_range",
        ),
        _SCHEME,
    ),
    "tfmot.quantization.keras",
)  # fmt: skip


def quantize_model(to_quantize: keras.Model, quantized_layer_name_prefix: str = "quant_") -> Twin:
    """A model that computes as the 8-bit file will, with weights of its own that start as those of this one.

    Args:
        to_quantize: a built Sequential or functional Keras 3 model.
        quantized_layer_name_prefix: as in TFMOT, without effect: layers keep their names.

    Returns:
        A `tfstruct.quantize.Twin`: compile and fit it; `tfstruct.to_tflite(twin)` writes the file with its ranges.
    """
    return quantize_apply(quantize_annotate_model(to_quantize))


def quantize_annotate_layer(to_annotate, quantize_config=None):
    """Marks a layer to be quantized by `quantize_apply`; returns it.

    Raises:
        ArgumentError: a `quantize_config`, which is another thing here.
    """
    if quantize_config is not None:
        raise ArgumentError(f"A QuantizeConfig is code for TFMOT's wrappers. {_SCHEME}")
    return marks.each(to_annotate, lambda layer: marks.mark(layer, _MARK, True), _refuse_model)


def _refuse_model(model):
    raise ArgumentError(f"`{model.name}` is a model. Expected a layer: quantize_annotate_model takes models.")


def quantize_annotate_model(to_annotate: keras.Model, quantized_layer_name_prefix: str = "quant_") -> keras.Model:
    """Marks all layers of a model to be quantized by `quantize_apply`; returns a model on the same layers."""

    def of_model(model: keras.Model) -> keras.Model:
        return marks.mark(marks.on_same_layers(model), _MARK, True)

    return marks.each(to_annotate, _refuse_layer, of_model)


def _refuse_layer(layer):
    raise ArgumentError(f"`{layer.name}` is a layer. Expected a model: quantize_annotate_layer takes layers.")


def quantize_apply(
    model: keras.Model, scheme: QuantizeScheme | None = None, quantized_layer_name_prefix: str = "quant_"
) -> Twin:
    """A model in which the layers that were marked compute as the 8-bit file will.

    Args:
        model: of `quantize_annotate_model`, or with layers of `quantize_annotate_layer`; built.
        scheme: of `tfmot.experimental.combine`: what stays while it trains.
        quantized_layer_name_prefix: as in TFMOT, without effect.

    Returns:
        A `tfstruct.quantize.Twin` with weights of its own.

    Raises:
        ModelError: no layer is marked, or the model is not built.
    """
    scheme = QuantizeScheme() if scheme is None else scheme
    if not isinstance(scheme, QuantizeScheme):
        call = " Call it: scheme()." if callable(scheme) else ""
        raise ArgumentError(
            f"`scheme` must be one of tfmot.experimental.combine. Received: {type(scheme).__name__}.{call}"
        )
    paths = layer_paths(model)
    chosen = {id(layer) for layer, _ in marks.marked_layers(model, _MARK)}
    others: dict[str, str] = {}
    if marks.marked(model, _MARK) is None:
        if not chosen:
            raise ModelError(
                f"`{model.name}` has no layer that is marked. Use tfmot.quantization.keras.quantize_annotate_layer, or "
                "quantize_model for all of them."
            )
        others = {path: "float32" for path, layer in paths.items() if id(layer) not in chosen}
    if not model.built:
        raise ModelError(f"`{model.name}` is not built yet: give it an Input, or call it on a batch.")
    copy = copied(model)
    twin = Twin(copy, Scheme("int8", layers=others))
    return marks.mark(twin, "held", _held(copy, twin, scheme))


def _held(copy: keras.Model, twin: Twin, scheme: QuantizeScheme) -> list:
    """Keeps zeros and shared values while the twin trains; warns where training would undo some."""
    held: list = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of those kernels whose turn comes
        for kernel in kernels(copy):
            values = np.asarray(kernel.variable)
            path = kernel.name.rpartition("/")[0]
            zeros, distinct = 1 - np.count_nonzero(values) / values.size, len(np.unique(values))
            if scheme.keep_values and 2 <= distinct < values.size:
                held.append(Cluster(distinct, layers=[f"*{path}"], keep_zeros=scheme.keep_zeros).attach(twin))
            elif scheme.keep_zeros and 0 < zeros < 1:
                held.append(Prune(ConstantRatio(zeros), layers=[path]).attach(copy))
    if not held and (scheme.keep_values or scheme.keep_zeros):
        kept = ["shared values"] * scheme.keep_values + ["zeros"] * scheme.keep_zeros
        warnings.warn(
            f"`{copy.name}` has no {' or '.join(kept)} that the scheme could keep. Give the model that "
            f"{'strip_clustering' if scheme.keep_values else 'strip_pruning'} returns.",
            stacklevel=4,
        )
    lost = None if held else unprotected(copy)
    if lost:
        warnings.warn(f"{lost} Or use a scheme of tfmot.experimental.combine.", stacklevel=4)
    return held


@contextlib.contextmanager
def quantize_scope(*args) -> Iterator[None]:
    """For `load_model`, as in TFMOT: a scope of the custom objects that are given; ours load without it."""
    with keras.utils.custom_object_scope({name: one for given in args for name, one in given.items()}):
        yield
