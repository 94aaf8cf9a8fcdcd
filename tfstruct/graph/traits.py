"""`Traits`: what an operation of Keras does with values, at inference, in the terms that all rooms use."""

import dataclasses
import math
from typing import Literal

from tfstruct import tflite_operators

Range = tuple[float, float]
ANY: Range = (-math.inf, math.inf)


@dataclasses.dataclass(frozen=True)
class Traits:
    """What an operation does.

    Attributes:
        moves: each value that it makes is one that it reads: `"identity"`, all where they were; `"view"`, in another
            shape; `"order"`, in another order; `"selection"`, some of them, or some several times.
        idle: why its configuration makes it hand on what it gets, as in "by one" of a pooling; else empty.
        training_only: it does nothing in inference.
        pads: it puts zeros around what it reads.
        interpolates: it makes means of neighbouring values, weighted by their distance (`"linear"`) or otherwise.
        by_channel: along other axes than that of the channels, each channel alone.
        elementwise: each value that it makes is of the values at its place only.
        joins: what it does to several tensors, element by element: `"add"`, `"subtract"`, `"multiply"`, `"divide"`,
            `"maximum"`, `"minimum"`, `"average"`, `"select"`; or `"concatenate"`.
        reduces: what it makes of many values: their `"max"`, `"min"`, `"mean"` or `"sum"`.
        over: of which ones: those of a `"window"`, of all `"positions"` of a channel, or along its `"axes"`.
        statistics: what it divides by is measured over its `"axes"`, over `"groups"` of channels, or was over the
            `"batch"` in training.
        affine: y = x * a + b, with constants for each channel.
        kernel: it is linear with weights of the layout `"dense"` (in, out), `"conv"` (taps, in, out), `"transposed"`
            (taps, out, in), `"depthwise"` (taps, in, multiplier), `"separable"`, which has the last and a pointwise
            one, `"einsum"`, `"table"` (indices, out) or `"cell"`, of a recurrent layer.
        one_kernel: its kernel is one constant of the file, so that its steps can be handed over.
        zeroed_by_weights: a channel is zero, and `surgery.shrink` sees it, where its weights are.
        multiplies: it sums products of two tensors, neither of them weights.
        function: the activation function that it is, by Keras's name; one that Keras does not have under any name, as
            `ReLU(threshold=1)`, as in `"relu_variant"`. Empty where it is none.
        activated: its last step is the function that its `activation` says.
        output_range: the least and the largest value that it can make, whatever comes in; None where there are no such.
        passes: between which values f(x) = x, for an activation function.
        keeps_zero: f(0) = 0.
        homogeneous: f(s x) = s f(x) for each s > 0.
        vocabulary: it looks what it reads up in a vocabulary.
        reads_integers: it takes what it reads for whole numbers (ids, classes, bins), or makes such of them.
        reads_shape: it reads no more of a tensor than its shape.
        operator: the operator of a `.tflite` file that its values come from, the last one if it becomes several.
        tensors: how many constants and results the file has for it; a step, if it is recurrent.
    """

    moves: Literal["", "identity", "view", "order", "selection"] = ""
    idle: str = ""
    training_only: bool = False
    pads: bool = False
    interpolates: Literal["", "linear", "other"] = ""
    by_channel: bool = False
    elementwise: bool = False
    joins: str = ""
    reduces: Literal["", "max", "min", "mean", "sum"] = ""
    over: Literal["", "window", "positions", "axes"] = ""
    statistics: Literal["", "axes", "groups", "batch"] = ""
    affine: bool = False
    kernel: str = ""
    one_kernel: bool = False
    zeroed_by_weights: bool = False
    multiplies: bool = False
    function: str = ""
    activated: bool = False
    output_range: Range | None = None
    passes: Range | None = None
    keeps_zero: bool = False
    homogeneous: bool = False
    vocabulary: bool = False
    reads_integers: bool = False
    reads_shape: bool = False
    operator: str = ""
    tensors: int | None = None

    @property
    def in_file(self) -> tflite_operators.OperatorTraits:
        """The traits of its operator in a `.tflite` file."""
        return tflite_operators.traits_of(self.operator)

    @property
    def same_scale(self) -> bool:
        """Whether what it reads and makes has one scale in an integer file."""
        return bool(self.moves) or self.in_file.same_scale

    @property
    def four_bits(self) -> bool:
        """Whether there is an integer version of it with weights of 4 bits."""
        return self.one_kernel and "int4" in self.in_file.weights

    @property
    def contracts(self) -> bool:
        """Whether it sums its input times a kernel over taps and channels."""
        return self.kernel in ("dense", "conv", "transposed", "depthwise", "separable")

    @property
    def folds_batch_norm(self) -> bool:
        """Whether a batch norm behind it, if it has no activation, becomes part of it in an integer file."""
        return self.contracts and bool(self.in_file.weights)

    @property
    def views(self) -> bool:
        """Whether it makes nothing new: its result is its input, read in another shape."""
        return self.moves in ("identity", "view") and self.operator != "CAST"

    @property
    def stays_within(self) -> bool:
        """Whether no value is above the largest that it reads, or below the least."""
        chosen = self.reduces in ("max", "min", "mean") or self.joins in ("maximum", "minimum", "average")
        return bool(self.moves) or chosen or self.interpolates == "linear"

    @property
    def clips(self) -> bool:
        """Whether it is a function that leaves values as they are, and ends at its range."""
        return self.passes is not None and self.passes == self.output_range != ANY
