"""Penalties that make weights, or whole groups of them, zero."""

import math
from collections.abc import Callable, Sequence

import keras
from keras import ops

from tfstruct.errors import ArgumentError, ModelError
from tfstruct.regularizers.penalty import Penalty, quotient, root

_AXES = {"filter": (-1,), "row": (-2,)}


@keras.saving.register_keras_serializable(package="tfstruct")
class GroupLasso(Penalty):
    """Sum of the norms of groups of weights: drives whole groups towards zero.

        penalty = strength * sum over groups g of sqrt(|g|) * ||w_g||_2

    with |g| the number of weights in the group. The gradient of a group that is all zero is 0.

    Args:
        strength: at least 0.
        by: what a group is.
            `"filter"`: all weights of one output channel, the positions of the last axis of a kernel;
            `"row"`: all weights that read one input channel, the positions of the last axis but one;
            an axis, or a tuple of axes: one group for each position on them, for example `(-2, -1)` for a depthwise
            kernel of shape (height, width, channels, multiplier), or -2 for the filters of a transposed convolution;
            `"channel"`: all weights that make one unit of a model's graph, across its layers: the kernels, biases,
            gammas and betas of every layer whose channels are coupled (residuals, depthwise). Only with
            `regularizers.apply(model, ...)`, as it belongs to a model.

    Source: Yuan and Lin 2006; filters and channels of a kernel as groups: arXiv:1608.03665.

    Example:
        >>> penalty = tfstruct.regularizers.GroupLasso(1.0, by="filter")
        >>> float(penalty(np.float32([[3.0, 0.0], [4.0, 0.0]])))  # sqrt(2) * 5 for the first filter, 0 for the other
        7.071...
    """

    def __init__(self, strength: float = 0.001, by: str | int | Sequence[int] = "filter"):
        super().__init__(strength)
        self.by = _by(by, (*_AXES, "channel"))
        self._tied: Callable | None = None  # the value for the whole model, set by `apply`

    def value(self, w):
        squares, size = _squares(w, self.by)
        return math.sqrt(size) * ops.sum(root(squares))

    def __call__(self, x):
        if self.by != "channel":
            return super().__call__(x)
        if self._tied is None:
            raise ModelError(
                'GroupLasso(by="channel") belongs to a whole model, not to one weight: a model made from a '
                "configuration (loaded, cloned, pruned) does not have its groups yet. Call "
                'tfstruct.regularizers.apply(model, GroupLasso(strength, by="channel")) on the built model, or '
                "tfstruct.regularizers.remove(model)."
            )
        return ops.cast(self.strength * self._tied(self), x.dtype)

    def get_config(self) -> dict:
        return {**super().get_config(), "by": self.by if isinstance(self.by, str) else list(self.by)}


@keras.saving.register_keras_serializable(package="tfstruct")
class BatchNormScale(Penalty):
    """L1 on the scales of batch norms, so that channels that matter little fade out (network slimming).

        penalty = strength * sum over channels c of |gamma_c|

    Give it as `gamma_regularizer=` of a `BatchNormalization`; `regularizers.apply` puts it on every batch norm of a
    model. Channels are then removed by `surgery.plan_channels(..., criterion="bn_scale")`.

    Args:
        strength: at least 0.

    Raises:
        ModelError: it is put on a weight of more than one axis, such as a kernel.

    Source: Eq. 1, arXiv:1708.06519.

    Example:
        >>> tfstruct.regularizers.apply(convnet, tfstruct.regularizers.BatchNormScale(1e-3)).value
        ('norm/gamma',)
    """

    def __init__(self, strength: float = 1e-4):
        super().__init__(strength)

    def value(self, w):
        if len(w.shape) != 1:
            raise ModelError(
                f"BatchNormScale expects a gamma of shape (channels,). Received: shape {tuple(w.shape)}. Give it as "
                "`gamma_regularizer`, and take L1 or GroupLasso for kernels."
            )
        return ops.sum(ops.absolute(w))


@keras.saving.register_keras_serializable(package="tfstruct")
class HoyerSquare(Penalty):
    """Ratio of the squared L1 norm to the squared L2 norm: sparse, and blind to the scale of the weights.

        penalty = strength * (sum over i of |w_i|)^2 / (sum over i of w_i^2)

    It is between strength (one weight is not zero) and strength * n (all n are equally large); 0, with gradient 0,
    where all weights are zero. Large weights grow and small ones shrink. With `by`, the norms of groups take the place
    of the |w_i| (Group-HS): whole groups become zero.

    Args:
        strength: at least 0.
        by: None for single weights; `"filter"`, `"row"`, an axis or a tuple of axes as in `GroupLasso`.

    Source: HS and Group-HS of arXiv:1908.09979.

    Example:
        >>> penalty = tfstruct.regularizers.HoyerSquare(1.0)
        >>> float(penalty(np.float32([3.0, 4.0])))  # (3 + 4)^2 / (9 + 16)
        1.96...
    """

    def __init__(self, strength: float = 1e-4, by: str | int | Sequence[int] | None = None):
        super().__init__(strength)
        self.by = None if by is None else _by(by, tuple(_AXES))

    def value(self, w):
        if self.by is None:
            return quotient(ops.square(ops.sum(ops.absolute(w))), ops.sum(ops.square(w)))
        squares, _ = _squares(w, self.by)
        return quotient(ops.square(ops.sum(root(squares))), ops.sum(squares))

    def get_config(self) -> dict:
        return {**super().get_config(), "by": list(self.by) if isinstance(self.by, tuple) else self.by}


@keras.saving.register_keras_serializable(package="tfstruct")
class Entropy(Penalty):
    """Shannon entropy, in nats, of a weight's normalized magnitudes: few weights take all of the magnitude.

        p_i = |w_i| / sum over j of |w_j|
        penalty = strength * -(sum over i of p_i * log p_i)

    with 0 log 0 = 0. It is between 0 (one weight is not zero) and strength * log n (all n are equally large); 0 where
    all weights are zero. It does not depend on the scale of the weights. A weight that is exactly zero gets gradient 0.

    Args:
        strength: at least 0.

    Source: Shannon 1948, of the distribution p.

    Example:
        >>> penalty = tfstruct.regularizers.Entropy(1.0)
        >>> float(penalty(np.float32([1.0, 1.0])))  # the logarithm of 2
        0.693...
    """

    def __init__(self, strength: float = 1e-4):
        super().__init__(strength)

    def value(self, w):
        size = ops.absolute(w)
        p = quotient(size, ops.sum(size))
        return -ops.sum(p * ops.log(ops.where(p > 0, p, 1.0)))


def _by(by, names: tuple[str, ...]) -> str | tuple[int, ...]:
    if isinstance(by, str) and by in names:
        return by
    axes = (by,) if isinstance(by, int) and not isinstance(by, bool) else by
    whole = isinstance(axes, list | tuple) and all(isinstance(a, int) and not isinstance(a, bool) for a in axes)
    if not whole or not axes or len(set(axes)) != len(axes):
        raise ArgumentError(f"`by` must be one of {', '.join(names)}, an axis or a tuple of axes. Received: {by!r}.")
    return tuple(axes)


def _squares(w, by) -> tuple[object, int]:
    """The squared norm of each group, and the number of weights in one."""
    rank = len(w.shape)
    axes = _AXES.get(by, by)
    if any(not -rank <= a < rank for a in axes):
        raise ArgumentError(f"`by` is {by!r}, which a weight of shape {tuple(w.shape)} does not have.")
    inside = [a for a in range(rank) if a not in {b % rank for b in axes}]
    size = math.prod(w.shape[a] for a in inside)
    return ops.sum(ops.square(w), axis=inside) if inside else ops.square(w), size
