"""Operations of `keras.ops` and operators: elementwise, over axes, and products of tensors."""

import math

import numpy as np

from tfstruct.graph.call import Axes, Call, Channels
from tfstruct.graph.rules.arguments import adopt, array_of, axes_of, given, operands
from tfstruct.graph.rules.registry import rule
from tfstruct.keras_internals.operation_types import operations

_UNARY = """
    Absolute Abs Fabs Angle Arccos Arccosh Arcsin Arcsinh Arctan Arctanh View BitwiseInvert BitwiseNot Cbrt Ceil Clip
    Conjugate Conj Copy Cos Cosh Deg2rad Rad2deg Exp Exp2 Expm1 Floor Imag I0 Isfinite Isinf Isnan Isneginf Isposinf
    Isreal Log Log10 Log1p Log2 LogicalNot NanToNum OnesLike ZerosLike Real Reciprocal Round Sign Signbit Sin Sinc Sinh
    Tan Tanh Trunc Negative Square Sqrt Rsqrt Erf Erfc Erfinv
    Relu Relu6 Sigmoid SparseSigmoid Softplus Softsign SoftShrink SparsePlus Silu Squareplus LogSigmoid LeakyRelu
    HardSigmoid HardSilu Elu Selu Gelu Celu TanhShrink HardTanh HardShrink Threshold ReLU Mish
    StopGradient Cast SaturateCast ConvertToTensor FullLike EmptyLike
"""
_JOINING = """
    Add Subtract Multiply Divide DivideNoNan TrueDivide FloorDivide Mod Fmod Power Maximum Minimum Fmax Fmin Arctan2
    Hypot Heaviside Ldexp Logaddexp Logaddexp2 Nextafter Gcd Lcm BitwiseAnd BitwiseOr BitwiseXor BitwiseLeftShift
    LeftShift BitwiseRightShift RightShift Equal NotEqual Greater GreaterEqual Less LessEqual Isclose LogicalAnd
    LogicalOr LogicalXor Where
"""


@rule(*operations(_UNARY))
def alone(call: Call) -> Axes:
    for name in ("x_min", "x_max"):
        bound = array_of(getattr(call.op, name, None))
        if bound is not None and bound.size > 1:
            call.freeze_inputs(f"{call.path} clips at arrays")
    if len(call.shapes[0]) != call.input.rank or _resized(call):
        # `view` to a type of another width regroups the last axis.
        call.freeze_inputs(f"{call.path} changes the shape")
        return call.untouched()[0]
    call.in_place = True
    return call.input.axes


def _resized(call: Call) -> bool:
    return tuple(call.shapes[0]) != tuple(call.input.shape)


@rule(*operations(_JOINING))
def joining(call: Call) -> Axes:
    found = operands(call, given(call))
    if found is None or len(call.node.arguments.args) + len(call.node.arguments.kwargs) < 2:
        call.freeze_inputs(f"{call.path} takes arguments that no rule knows")
        return call.untouched()[0]
    tensors = [channels for _, channels, constant in found if constant is None]
    for key, channels, constant in found:
        if constant is not None:
            axes = [_labels_at(tensors, i - channels.rank, n) for i, n in enumerate(channels.shape)]
            tensors.append(adopt(call, key, constant, axes))
    call.in_place = len(call.inputs) == 1
    return call.elementwise(tensors)


def _labels_at(tensors: list[Channels], axis: int, size: int | None) -> np.ndarray | None:
    """The labels that an axis of a constant shares with the tensors that it meets there."""
    if size == 1:
        return None
    met = (t.axes[axis] for t in tensors if t.key != -1 and t.rank >= -axis and t.shape[axis] == size)
    return next((labels for labels in met if labels is not None), None)


@rule(*operations("Softmax LogSoftmax Sparsemax Normalize"))
def over_an_axis(call: Call) -> Axes:
    for axis in axes_of(call.op.axis, call.input.rank):
        call.statistics(call.input.axes[axis])
        call.sums(call.input.axes[axis])
    return call.input.axes


@rule(*operations("Glu"))
def glu(call: Call) -> Axes:
    """One half gates the other: a channel goes with its gate."""
    axis = call.op.axis % call.input.rank
    labels = call.input.axes[axis]
    if labels is not None:
        half = len(labels) // 2
        labels = call.unite(labels[:half], labels[half:])
    return (*call.input.axes[:axis], labels, *call.input.axes[axis + 1 :])


@rule(*operations("Cumsum Nancumsum"))
def running_sum(call: Call) -> Axes:
    if call.op.axis is None:
        call.freeze_inputs(f"{call.path} flattens it")
        return call.untouched()[0]
    call.sums(call.input.axes[call.op.axis])
    return call.input.axes


@rule(*operations("Cumprod Nancumprod Sort Argsort"))
def along_an_axis(call: Call) -> Axes:
    """What happens to a channel depends on all before it, so those of the axis stay; the others pass."""
    if call.op.axis is None:
        call.freeze_inputs(f"{call.path} flattens it")
        return call.untouched()[0]
    axis = call.op.axis % call.input.rank
    call.freeze(call.input.axes[axis], f"{call.path} runs along it")
    return (*call.input.axes[:axis], None, *call.input.axes[axis + 1 :])


def _reduced(call: Call, note) -> Axes:
    """Axes after a reduction; `note` gets the labels that it reduces over."""
    over = axes_of(getattr(call.op, "axis", None), call.input.rank)
    for axis in over:
        if call.input.axes[axis] is not None:
            note(call.input.axes[axis])
    if getattr(call.op, "keepdims", False):
        return tuple(None if i in over else labels for i, labels in enumerate(call.input.axes))
    return tuple(labels for i, labels in enumerate(call.input.axes) if i not in over)


@rule(*operations("Sum Nansum Any CountNonzero"))
def total(call: Call) -> Axes:
    """A channel at zero adds nothing."""
    return _reduced(call, call.sums)


_STATISTICS = """
    Mean Max Min Amax Amin Std Var Prod All Median Ptp Logsumexp
    Nanmean Nanmax Nanmin Nanstd Nanvar Nanprod Nanmedian
"""


@rule(*operations(_STATISTICS))
def statistic(call: Call) -> Axes:
    counted = "prod" in type(call.op).__name__.lower() or type(call.op).__name__ == "Logsumexp"

    def note(labels):
        call.statistics(labels)
        if counted:
            call.sums(labels)

    return _reduced(call, note)


@rule(*operations("Norm"))
def norm(call: Call) -> Axes:
    exact = call.op.ord in (None, "fro", 1, 2)

    def note(labels):
        call.sums(labels)
        if not exact:
            call.statistics(labels)

    return _reduced(call, note)


@rule(*operations("Argmax Argmin Nanargmax Nanargmin"))
def place(call: Call) -> Axes:
    return _reduced(call, lambda labels: call.freeze(labels, f"{call.path} counts its positions"))


@rule(*operations("Moments"))
def moments(call: Call) -> list[Axes]:
    over = axes_of(call.op.axes, call.input.rank)
    for axis in over:
        call.statistics(call.input.axes[axis])
    kept = [(i, labels) for i, labels in enumerate(call.input.axes) if call.op.keepdims or i not in over]
    return [tuple(None if i in over else labels for i, labels in kept)] * 2


# Products of tensors: all of them are sums of products over named axes.


def product(call: Call, came: list[str], out: str) -> Axes:
    """Axes of an einsum of the call's tensors and constants, whose axes `came` names by letters.

    An axis of a constant is cut as the tensors' axis of the same letter is; one that only constants have, as what it
    is joined with later on. Where sizes of 1 are broadcast, the
    channels that they are broadcast over pass, and those of size 1 stay.
    """
    found = operands(call, _flat(call))
    if found is None or [c.rank for _, c, _ in found] != [len(letters) for letters in came]:
        return _unknown(call)
    if any(len(set(letters)) < len(letters) for letters in (*came, out)) or not set(out) <= set("".join(came)):
        return _unknown(call)
    tensors = [(c, letters) for (_, c, constant), letters in zip(found, came, strict=True) if constant is None]
    by_letter: dict[str, np.ndarray | None] = {}
    sizes: dict[str, int | None] = {}
    for letter in dict.fromkeys("".join(came)):
        meets = [(c.shape[k.index(letter)], c.axes[k.index(letter)]) for c, k in tensors if letter in k]
        all_sizes = [c.shape[k.index(letter)] for (_, c, _), k in zip(found, came, strict=True) if letter in k]
        known = [n for n in all_sizes if n is not None]
        widest = max(known) if len(known) == len(all_sizes) else None
        joined, first = None, True
        for size, labels in meets:
            if size == 1 and widest != 1:
                call.freeze(labels, f"{call.path} broadcasts it over other channels")
                continue
            joined, first = (labels if first else call.unite(joined, labels)), False
        by_letter[letter], sizes[letter] = joined, widest
        if letter not in out:
            call.sums(joined)
    for letter in out:
        size = sizes[letter]
        if not any(letter in letters for _, letters in tensors) and size is not None and size != 1:
            # What constants alone make goes where it is joined with channels that go, and only there.
            by_letter[letter] = call.fresh(size, f"constant_{letter}", listed=False)
    for (key, channels, constant), letters in zip(found, came, strict=True):
        if constant is not None:
            axes = [by_letter[x] if n != 1 else None for x, n in zip(letters, channels.shape, strict=True)]
            if any(labels is not None for labels in axes):
                adopt(call, key, constant, axes)
    counted = [letter for letter in by_letter if not out or letter != out[0]]
    plain = [sizes[letter] for letter in counted if by_letter[letter] is None]
    known = [n for n in plain if n is not None]
    factor = math.prod(known) if len(known) == len(plain) else None
    call.macs(factor, *(by_letter[letter] for letter in counted))
    return tuple(by_letter[letter] for letter in out)


def _flat(call: Call):
    return [(key, value) for key, value in given(call) if value is not None]


def _unknown(call: Call) -> Axes:
    call.freeze_inputs(f"{call.path} ({type(call.op).__name__}) multiplies in a way that no rule knows")
    return call.untouched()[0]


def _ranks(call: Call) -> list[int] | None:
    found = operands(call, _flat(call))
    return None if found is None else [c.rank for _, c, _ in found]


@rule(*operations("Einsum"))
def einsum(call: Call) -> Axes:
    ranks = _ranks(call)
    text = call.op.subscripts.replace(" ", "")
    if ranks is None or "->" not in text or text.count(",") != len(ranks) - 1:
        return _unknown(call)
    left, out = text.split("->")
    spare, widest, given_letters = "ZYXWVUTSRQ", 0, []
    for letters, rank in zip(left.split(","), ranks, strict=True):
        unnamed = rank - len(letters.replace("...", ""))
        widest = max(widest, unnamed if "..." in letters else 0)
        given_letters.append((letters, unnamed))
    if set(spare) & set(text) or widest > len(spare):
        return _unknown(call)
    # Letters for an ellipsis, from the right.
    spare = spare[:widest]
    came = [letters.replace("...", spare[len(spare) - n :] if n > 0 else "") for letters, n in given_letters]
    return product(call, came, out.replace("...", spare))


@rule(*operations("Matmul"))
def matmul(call: Call) -> Axes:
    ranks = _ranks(call)
    if ranks is None or len(ranks) != 2 or 0 in ranks:
        return _unknown(call)
    spare = "abcdefghij"[: max(*ranks, 2) - 2]
    left = "k" if ranks[0] == 1 else spare[len(spare) - ranks[0] + 2 :] + "nk"
    right = "k" if ranks[1] == 1 else spare[len(spare) - ranks[1] + 2 :] + "km"
    return product(call, [left, right], spare + left[-2:-1] * (ranks[0] > 1) + right[-1:] * (ranks[1] > 1))


@rule(*operations("Dot"))
def dot(call: Call) -> Axes:
    ranks = _ranks(call)
    if ranks is None or len(ranks) != 2 or 0 in ranks:
        return _unknown(call)
    left, right = "abcdefgh"[: ranks[0] - 1], "ijlmnopq"[: ranks[1] - 1]
    inner = right[: ranks[1] - 2] + "k" + right[ranks[1] - 2 :] if ranks[1] > 1 else "k"
    return product(call, [left + "k", inner], left + right)


@rule(*operations("Tensordot"))
def tensordot(call: Call) -> Axes:
    ranks = _ranks(call)
    if ranks is None or len(ranks) != 2:
        return _unknown(call)
    axes = call.op.axes
    if isinstance(axes, int):
        axes = (range(ranks[0] - axes, ranks[0]), range(axes))
    first, second = (axes_of(list(a) if not isinstance(a, int) else a, r) for a, r in zip(axes, ranks, strict=True))
    left, right = list("abcdefgh"[: ranks[0]]), list("ijklmnop"[: ranks[1]])
    for i, j in zip(first, second, strict=True):
        right[j] = left[i]
    out = [x for x in left if x not in right] + [x for x in right if x not in left]
    return product(call, ["".join(left), "".join(right)], "".join(out))


@rule(*operations("DotProductAttention"))
def dot_product_attention(call: Call) -> Axes:
    """Query (B, T, N, H) on key and value (B, S, K, H): widths are joined; heads too, where they are equally many."""
    query, key, value = (call.argument(name) for name in ("query", "key", "value"))
    if not all(isinstance(x, Channels) and x.rank == 4 for x in (query, key, value)):
        return _unknown(call)
    width = call.unite(query.axes[3], key.axes[3])
    if value.shape[3] == query.shape[3]:  # Keras takes the query's shape for that of the result
        width = call.unite(width, value.axes[3])
    else:
        for labels in (width, value.axes[3]):
            call.freeze(labels, f"{call.path} has values of another width, of which Keras does not know")
    call.sums(width)
    if call.argument("scale") is None and width is not None:
        # The default follows the width.
        call.set_argument("scale", lambda kept: 1 / math.sqrt(len(width)))
    for labels in (t.axes[i] for t in (query, key, value) for i in (0, 1)):
        call.freeze(labels, f"{call.path} compares its positions")
    heads = call.unite(key.axes[2], value.axes[2])
    extras = [call.argument(name) for name in ("bias", "mask")]
    if query.shape[2] == key.shape[2] and all(x is None for x in extras):
        heads = call.unite(query.axes[2], heads)
    else:
        for labels in (query.axes[2], heads):
            call.freeze(labels, f"{call.path} shares heads, or has a mask or bias of its own for them")
        heads = None
    for extra in extras:
        for labels in extra.axes if isinstance(extra, Channels) else ():
            call.freeze(labels, f"{call.path} takes it as a mask or bias")
    return (None, None, heads, width if value.shape[3] == query.shape[3] else None)
