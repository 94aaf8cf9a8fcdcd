"""Operations of `keras.ops` that place values by position or by ids: stacks, triangles, scatter, segments; and those
that hold every channel, with the reason."""

import numpy as np

from tfstruct.graph.call import Axes, Call, Channels
from tfstruct.graph.rules.arguments import array_of, axes_of, given, operands
from tfstruct.graph.rules.indexing import held, split
from tfstruct.graph.rules.movement import join
from tfstruct.graph.rules.operations import product
from tfstruct.graph.rules.registry import rule
from tfstruct.keras_internals.operation_types import operations


def _without(call: Call, x: Channels, axes, why: str) -> list[np.ndarray | None]:
    """The axes of a tensor, of which these are held."""
    for axis in axes:
        call.freeze(x.axes[axis], f"{call.path} {why}")
    return [None if i in axes else labels for i, labels in enumerate(x.axes)]


def _shape(value) -> tuple[int | None, ...]:
    """Of a tensor or a constant."""
    array = None if isinstance(value, Channels) else array_of(value)
    return value.shape if array is None else array.shape


@rule(*operations("Fliplr Flipud"))
def flip_one(call: Call) -> Axes:
    axis = 1 if type(call.op).__name__ == "Fliplr" else 0
    return tuple(x[::-1] if x is not None and i == axis else x for i, x in enumerate(call.input.axes))


@rule(*operations("Rot90"))
def rot90(call: Call) -> Axes:
    i, j = axes_of(list(call.op.axes), call.input.rank)
    axes = _without(call, call.input, (i, j), "turns it")
    return tuple(axes)


@rule(*operations("Hstack Vstack Dstack Append"))
def stack_along(call: Call) -> Axes | list[Axes]:
    name = type(call.op).__name__
    ((_, values),) = given(call) if name != "Append" else [("", [value for _, value in given(call)[:2]])]
    found = operands(call, enumerate(values))
    axis = {"Hstack": 1, "Vstack": 0, "Dstack": 2}.get(name, getattr(call.op, "axis", None))
    if found is None or axis is None or any(x.rank <= axis for _, x, _ in found):
        return held(call, "joins what no rule knows")
    return join(call, [x for _, x, _ in found], axis)


@rule(*operations("Hsplit Vsplit Dsplit"))
def split_along(call: Call) -> list[Axes]:
    axis = {"Hsplit": 1, "Vsplit": 0, "Dsplit": 2}[type(call.op).__name__]
    return split(call, axis % call.input.rank)


@rule(*operations("TopK Argpartition Diff Trapezoid"))
def of_an_axis(call: Call) -> list[Axes]:
    """What comes of a channel depends on others of its axis, which stay; the other axes pass."""
    axis = getattr(call.op, "axis", -1) % call.input.rank
    axes = _without(call, call.input, (axis,), "compares its positions")
    if len(call.shapes[0]) < len(axes):
        del axes[axis]
    return [tuple(axes)] * len(call.shapes)


@rule(*operations("Quantile Percentile Nanquantile Nanpercentile"))
def quantile(call: Call) -> Axes:
    over = axes_of(call.op.axis, call.input.rank)
    axes = _without(call, call.input, over, "counts its positions")
    if not call.op.keepdims:
        axes = [labels for i, labels in enumerate(axes) if i not in over]
    return (*(None,) * (len(call.shapes[0]) - len(axes)), *axes)


@rule(*operations("Tril Triu"))
def triangle(call: Call) -> Axes:
    rank = call.input.rank
    return tuple(_without(call, call.input, (rank - 2, rank - 1), "keeps a triangle of it"))


@rule(*operations("Diagonal Trace"))
def diagonal(call: Call) -> Axes:
    over = axes_of([call.op.axis1, call.op.axis2], call.input.rank)
    axes = _without(call, call.input, over, "takes a diagonal of it")
    rest = [labels for i, labels in enumerate(axes) if i not in over]
    return (*rest, *(None,) * (len(call.shapes[0]) - len(rest)))


@rule(*operations("OneHot"))
def one_hot(call: Call) -> Axes:
    axes = list(call.input.axes)
    axes.insert(call.op.axis % len(call.shapes[0]), None)
    return tuple(axes)


@rule(*operations("MultiHot"))
def multi_hot(call: Call) -> Axes:
    axes = _without(call, call.input, range(1, call.input.rank), "reads ids")
    return (*axes[:1], *(None,) * (len(call.shapes[0]) - 1))


@rule(*operations("Digitize IsIn"))
def against_constants(call: Call) -> Axes | list[Axes]:
    """Element by element, against all numbers of a constant."""
    first, *others = (value for _, value in given(call))
    if not isinstance(first, Channels) or any(array_of(value) is None for value in others):
        return held(call, "compares it with all values of another tensor")
    return first.axes


@rule(*operations("Inner"))
def inner(call: Call) -> Axes | list[Axes]:
    ranks = [x.rank for _, x, _ in operands(call, given(call)) or ()]
    if len(ranks) != 2 or 0 in ranks:
        return held(call, "multiplies in a way that no rule knows")
    left, right = "abcdefgh"[: ranks[0] - 1], "ijlmnopq"[: ranks[1] - 1]
    return product(call, [left + "k", right + "k"], left + right)


@rule(*operations("TakeAlongAxis"))
def take_along_axis(call: Call) -> Axes | list[Axes]:
    """Of the other axes each channel keeps its own indices."""
    x, indices = call.argument("x"), call.argument("indices")
    if not isinstance(x, Channels) or call.op.axis is None:
        return held(call, "picks from a constant, or from all axes at once")
    axis = call.op.axis % x.rank
    axes = _without(call, x, (axis,), "picks from it")
    shape = call.shapes[0]
    for i, labels in enumerate(axes):
        own = indices.axes[i] if isinstance(indices, Channels) else None
        size = _shape(indices)[i]
        if i == axis:
            call.freeze(own, f"{call.path} takes it as indices")
        elif size == 1 and shape[i] != 1:
            call.freeze(own, f"{call.path} broadcasts it over other channels")
        else:
            axes[i] = call.unite(labels, own) if labels is not None or own is not None else None
    return tuple(axes)


@rule(*operations("ScatterUpdate"))
def scatter_update(call: Call) -> Axes | list[Axes]:
    """Axes behind those that the indices name are whole in both tensors, and united."""
    x, updates, indices = (call.argument(name) for name in ("inputs", "updates", "indices"))
    named = _shape(indices)[-1]
    if not all(isinstance(value, Channels) for value in (x, updates)) or named is None:
        return held(call, "writes to or from a constant")
    for axis in range(updates.rank - (x.rank - named)):
        call.freeze(updates.axes[axis], f"{call.path} writes it by indices")
    axes = _without(call, x, range(named), "writes to it by indices")
    for i in range(1, x.rank - named + 1):
        axes[-i] = call.unite(axes[-i], updates.axes[-i])
    return tuple(axes)


@rule(*operations("SliceUpdate"))
def slice_update(call: Call) -> Axes | list[Axes]:
    """Axes that are written as a whole are united; of others all stays."""
    x, updates, starts = (call.argument(name) for name in ("inputs", "updates", "start_indices"))
    starts = array_of(starts)
    if not all(isinstance(value, Channels) for value in (x, updates)) or starts is None:
        return held(call, "writes at a place that is not known, or a constant")
    axes: list[np.ndarray | None] = []
    for axis, start in enumerate(starts.tolist()):
        if start == 0 and x.shape[axis] == updates.shape[axis]:
            axes.append(call.unite(x.axes[axis], updates.axes[axis]))
            continue
        for tensor in (x, updates):
            call.freeze(tensor.axes[axis], f"{call.path} writes a part of it")
        axes.append(None)
    return tuple(axes)


@rule(*operations("SegmentSum SegmentMax SegmentMin SegmentProd"))
def segments(call: Call) -> Axes | list[Axes]:
    data, ids = (value for _, value in given(call)[:2])
    if not isinstance(data, Channels):
        return held(call, "reduces a constant")
    for labels in ids.axes if isinstance(ids, Channels) else ():
        call.freeze(labels, f"{call.path} takes it as ids")
    return tuple(_without(call, data, (0,), "reduces it by segments"))


@rule(*operations("Unfold"))
def unfold(call: Call) -> Axes:
    """Patches of (batch, channels, height, width): each channel brings all places of a patch."""
    axes = _without(call, call.input, (0, 2, 3), "slides over it")
    labels = axes[1]
    return (None, None if labels is None else np.repeat(labels, call.shapes[0][1] // len(labels)), None)


@rule(*operations("Fold"))
def fold(call: Call) -> Axes:
    """Patches back to an image: the places of a patch go with their channel."""
    labels = _without(call, call.input, (0, 2), "slides over it")[1]
    if labels is not None:
        places = labels.reshape(call.shapes[0][1], -1)
        for i in range(1, places.shape[1]):
            call.unite(places[:, 0], places[:, i])
        labels = places[:, 0]
        call.sums(labels)
    return (None, labels, None, None)


# Operations whose channels stay, by the reason.

_HELD = {
    "computes with whole matrices": """
        Cholesky CholeskyInverse Det Eig Eigh Inv Logdet Lstsq LuFactor MatrixRank Pinv Qr SVD Slogdet Solve
        SolveTriangular Kron Vander Corrcoef Cross Outer Vdot CDist""",
    "transforms whole axes": "FFT FFT2 IFFT2 RFFT IRFFT STFT ISTFT ExtractSequences Correlate AssociativeScan",
    "runs functions of its own": "Cond ForiLoop Map Scan Switch VectorizedMap WhileLoop JVP",
    "makes what follows the values": """
        Bincount Histogram InTopK Nonzero SearchSorted Unique UnravelIndex AllClose CTCDecode""",
    "compares predictions with targets": """
        BinaryCrossentropy CategoricalCrossentropy SparseCategoricalCrossentropy CTCLoss PSNR SSIM""",
    "counts colours or places of pixels": """
        HSVToRGB RGBToHSV RGBToGrayscale SobelEdges MapCoordinates ScaleAndTranslate ElasticTransform""",
    "makes a new tensor of numbers": """
        Arange Array Full Geomspace Linspace Logspace Meshgrid Diag Diagflat Ndim Size Scatter""",
    "reads numbers in pairs": "Polar ViewAsComplex ViewAsReal",
    "flattens it": "Ravel",
    "reorders it by a pattern": "Rearrange",
    "weighs what it averages": "Average",
    "selects among several": "Select",
    "convolves with kernels of another layout": "ConvTranspose SeparableConv",
}


def _rule_of_held(why: str):
    def stays(call: Call) -> list[Axes]:
        name = type(call.op).__name__
        call.freeze_inputs(
            f"no rule knows the operation {name} ({call.path}), which {why}; tfstruct.graph.rule adds one"
        )
        return call.untouched()

    return stays


for _why, _names in _HELD.items():
    rule(*operations(_names))(_rule_of_held(_why))
