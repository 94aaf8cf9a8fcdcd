"""Penalties as proximal operators: `prox(w) = argmin over u of ||u - w||^2 / (2 * step_size) + penalty(u)`."""

import copy
import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from tfstruct.analyze.weight_criteria import is_kernel
from tfstruct.arguments import require_count, require_number
from tfstruct.errors import ArgumentError
from tfstruct.optimizers.channel_units import BoundUnits, units_of


class Penalty:
    """A penalty on a list of variables, known by its proximal operator.

    A subclass has `prox(values, step_size)`, which returns the values, in order, with those it acts on replaced, and
    `choose(variables)`, if it has to know the variables: it is called on a copy, for the optimizer that is built.
    """

    def bind(self, variables: Sequence) -> "Penalty":
        bound = copy.copy(self)
        bound.choose(variables)
        return bound

    def choose(self, variables: Sequence) -> None:
        pass

    def prox(self, values: Sequence, step_size) -> list:
        raise NotImplementedError

    def get_config(self) -> dict:
        return {}

    @classmethod
    def from_config(cls, config: dict):
        return cls(**config)


class OnKernels(Penalty):
    """Acts on each kernel by itself.

    Args:
        variables: parts of variables' paths: those variables are penalized that have one of them in their path. None:
            every kernel, that is every weight of rank 2 or more, tables of embeddings included, but no bias and no
            scale of a normalization.
    """

    _left_out: tuple[str, ...] = ()
    _least_rank = 0

    def __init__(self, variables: Sequence[str] | None = None):
        if isinstance(variables, str):
            raise ArgumentError(f"`variables` must be a list of parts of paths. Received the string {variables!r}.")
        self.variables = None if variables is None else list(variables)
        self._indices: list[int] = []

    def choose(self, variables) -> None:
        paths = [getattr(v, "path", v.name) for v in variables]
        if self.variables is None:
            self._indices = [
                i for i, v in enumerate(variables)
                if is_kernel(v) and not any(part in paths[i] for part in self._left_out)
            ]  # fmt: skip
            return
        for part in self.variables:
            if not any(part in path for path in paths):
                raise ArgumentError(f"`variables` must be parts of paths of {', '.join(paths)}. Received: {part!r}.")
        self._indices = [i for i, path in enumerate(paths) if any(part in path for part in self.variables)]
        flat = [paths[i] for i in self._indices if len(variables[i].shape) < self._least_rank]
        if flat:
            raise ArgumentError(f"{type(self).__name__} needs weights of rank 2 or more. Received: {flat[0]}.")

    def prox(self, values, step_size):
        values = list(values)
        for i in self._indices:
            values[i] = self.prox_one(values[i], ops.cast(step_size, values[i].dtype))
        return values

    def prox_one(self, value, step_size):
        raise NotImplementedError

    def get_config(self):
        return {"variables": self.variables}


@keras.saving.register_keras_serializable(package="tfstruct")
class L1(OnKernels):
    """Soft threshold: `w <- sign(w) * max(|w| - step_size * strength, 0)`, the prox of `strength * sum |w|`.

    Source: Daubechies et al. 2004; Beck & Teboulle 2009 (ISTA), Eq. 1.5.
    """

    def __init__(self, strength=1e-4, variables=None):
        super().__init__(variables)
        self.strength = require_number("strength", strength, least=0)

    def prox_one(self, value, step_size):
        return ops.sign(value) * ops.maximum(ops.abs(value) - step_size * self.strength, 0)

    def get_config(self):
        return {**super().get_config(), "strength": self.strength}


@keras.saving.register_keras_serializable(package="tfstruct")
class Filters(OnKernels):
    """Group soft threshold of every filter: `w_f <- max(0, 1 - step_size * strength * sqrt(n_f) / ||w_f||) * w_f`.

    The prox of `strength * sum over filters of sqrt(n_f) * ||w_f||`, the L2,1 norm; n_f, the number of weights in the
    filter, lets one strength serve layers of all sizes. Biases and batch norms are not part of it:
    `ChannelGroups` takes a channel with all that makes it.

    Args:
        strength: of the penalty, 0 or larger.
        axis: of a kernel, which counts its filters: -1 for Dense and convolutions; kernels of transposed convolutions
            have theirs on -2, those of depthwise ones (left out unless `variables` names them) too.

    Source: Yuan & Lin 2006, "Model selection and estimation in regression with grouped variables".
    """

    _left_out = ("depthwise",)
    _least_rank = 2

    def __init__(self, strength=1e-4, variables=None, axis=-1):
        super().__init__(variables)
        self.strength = require_number("strength", strength, least=0)
        self.axis = int(axis)

    def prox_one(self, value, step_size):
        rank = len(value.shape)
        others = [i for i in range(rank) if i != self.axis % rank]
        squares = ops.sum(ops.square(value), axis=others, keepdims=True)
        size = math.prod(value.shape) / value.shape[self.axis]
        return value * _shrinkage(squares, step_size * self.strength * math.sqrt(size))

    def get_config(self):
        return {**super().get_config(), "strength": self.strength, "axis": self.axis}


@keras.saving.register_keras_serializable(package="tfstruct")
class NM(OnKernels):
    """Projection onto N:M sparsity: of each `m` consecutive weights along the input axis, the `n` largest stay.

    The prox of a penalty that is 0 where the pattern holds and infinite elsewhere: whatever the step size, every block
    has at most n weights that are not zero after every step. Of equal weights the first stays. The input axis is the
    last but one (Dense: inputs, Conv: channels in); its last block may be shorter.

    Args:
        n, m: 0 < n < m.

    Source: the pattern, Zhou et al., arXiv:2102.04010; the projected step, iterative hard thresholding, Blumensath &
    Davies 2009.
    """

    _left_out = ("depthwise", "embeddings")
    _least_rank = 2

    def __init__(self, n=2, m=4, variables=None):
        super().__init__(variables)
        self.n, self.m = require_count("n", n), require_count("m", m, least=2)
        if self.n >= self.m:
            raise ArgumentError(f"`n` must be below `m`: n of each m weights stay. Received: n={n}, m={m}.")

    def prox_one(self, value, step_size):
        shape = tuple(value.shape)
        width, blocks = shape[-2], math.ceil(shape[-2] / self.m)
        pad = [(0, 0)] * len(shape)
        pad[-2] = (0, blocks * self.m - width)
        # Padding is the smallest of all.
        size = ops.pad(ops.abs(value), pad, constant_values=-1.0)
        size = ops.reshape(size, (-1, blocks, self.m, shape[-1]))
        ahead = ops.zeros(size.shape, "int32")
        place = ops.reshape(ops.arange(self.m), (1, 1, self.m, 1))
        for j in range(self.m):
            other = size[:, :, j : j + 1]
            ahead += ops.cast((other > size) | ((other == size) & (place > j)), "int32")
        stays = ops.reshape(ahead < self.n, (*shape[:-2], blocks * self.m, shape[-1]))[..., :width, :]
        return ops.where(stays, value, ops.zeros_like(value))

    def get_config(self):
        return {**super().get_config(), "n": self.n, "m": self.m}


@keras.saving.register_keras_serializable(package="tfstruct")
class ChannelGroups(Penalty):
    """Group soft threshold of every channel, over all variables that make it.

    ```
    w_c <- max(0, 1 - step_size * strength * sqrt(n_c) / ||w_c||) * w_c
    ```

    `w_c` is all that makes channel c: its filters in every layer coupled by residual joins or depthwise kernels, their
    biases, and gamma and beta of its batch norms; n_c counts these weights, so that one strength serves all layers. At
    zero, the channel is zero in the whole model, and `surgery.shrink` removes it. The prox of
    `strength * sum over channels of sqrt(n_c) * ||w_c||` (Yuan & Lin 2006).

    Args:
        model: Sequential or functional; the model that will be trained. Read now: layers frozen later do not fit.
        strength: of the penalty, 0 or larger.
        groups: names of channel groups, as `tfstruct.explain` has them; by default all that can be.

    Raises:
        ModelError: an unknown group, or no channels that can be zero.

    In a file it is plain data: variables by path with the channels on one axis. It is bound again by path, or by
    position where layers have other names and all shapes are the same; a ValueError says if neither fits.
    """

    def __init__(self, model, strength=1e-4, groups=None):
        self.units = units_of(model, groups=groups)
        self.strength = require_number("strength", strength, least=0)
        self._bound: BoundUnits | None = None

    def choose(self, variables) -> None:
        self._bound = self.units.bind(variables)

    def prox(self, values, step_size):
        assert self._bound is not None  # `choose` comes first
        squares = self._bound.total(self._bound.by_channel(values))
        threshold = ops.cast(step_size, squares.dtype) * self.strength * np.sqrt(self._bound.sizes).astype("float32")
        return self._bound.scaled(values, _shrinkage(squares, threshold))

    def get_config(self):
        return {"model": self.units.to_config(), "strength": self.strength}


def _shrinkage(squares, threshold):
    """max(0, 1 - threshold / norm); 0 where the norm is."""
    norm = ops.sqrt(squares)
    positive = norm > threshold
    return ops.where(positive, 1 - threshold / ops.where(positive, norm, ops.ones_like(norm)), ops.zeros_like(norm))
