"""`StructuredSparse`: an optimizer that ends with a given number of channels at exactly zero."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from tfstruct.arguments import checked, is_number, require_count
from tfstruct.errors import ArgumentError
from tfstruct.keras_internals.optimizers import averages_of, trained_by
from tfstruct.optimizers.channel_units import units_of
from tfstruct.optimizers.replicas import assign, read
from tfstruct.optimizers.wrapper import Wrapper


@checked
@keras.saving.register_keras_serializable(package="tfstruct")
class StructuredSparse(Wrapper):
    """Trains a model while a given share of its channels goes to exactly zero, for `surgery.shrink` to remove.

    Steps t of the inner optimizer, in three phases:

    1. `warmup_steps`: the inner optimizer alone.
    2. `pruning_steps`, in `periods` periods of T steps. At the start of each, the least salient channels are chosen,
       until `target * (period + 1) / periods` of them are; those of the period are brought down to zero by its end,
       `w_c <- (T - 1 - t) / (T - t) * (inner optimizer's step of w_c)` at its step t = 0, ..., T - 1, while all others
       train on.
    3. From there on the chosen channels stay zero, and the rest trains.

    A channel is all that makes it: filters in every layer coupled by residual joins or depthwise kernels, biases, and
    gamma and beta of its batch norms. Its salience, whatever the scale of a layer:

    `s_c = mean over its weights v of ||v_c||^2 / (mean over the channels of v of ||v||^2)`

    Only channels that are zero throughout the model once these are: made by dense layers, convolutions and embeddings,
    through batch norms with a gamma and activations with f(0) = 0. All others (frozen, not trainable, under layer
    normalization, bound into blocks by grouped convolutions) are left alone. Every group keeps one channel.

    Args:
        optimizer: a Keras optimizer, which keeps its weight decay, clipping, EMA, accumulation and loss scale.
        model: the model that will be trained, Sequential or functional. Read now: layers frozen later do not fit.
        target: the share in (0, 1) of the channels that can be zero, which shall be; by default a half.
        channels: instead of it: how many.
        warmup_steps, pruning_steps, periods: the phases, in updates. T is `pruning_steps // periods`.
        groups: names of channel groups, as `tfstruct.explain` has them; by default all that can be.

    Raises:
        ArgumentError: a target that cannot be reached, or phases without steps. ModelError: unknown groups, or none.

    Attributes:
        zero_channels: how many shall be zero in the end.

    Where EMA is on, the averages of channels at zero are zero too. Wrap other wrappers, and not the other way round:
    slow weights of a `Lookahead` around it would not be zero. In a file the channels are plain data: variables by path
    with the channels on one axis, bound again by path or, where layers have other names, by position.

    Source: HESSO, Chen et al., arXiv:2409.09085, Algorithms 1 and 2 (progressive choice, hybrid training), with the
    zero-invariant groups of OTO, arXiv:2107.07467, Section 3.1. The salience is magnitude only.

    Example:
        >>> sgd = keras.optimizers.SGD(0.1)
        >>> optimizer = tfstruct.optimizers.StructuredSparse(sgd, model, pruning_steps=4, periods=2)
        >>> model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> history = model.fit(x, y, batch_size=8, verbose=0)
        >>> tfstruct.shrink(model).model.get_layer("hidden").units
        8
    """

    def __init__(
        self,
        optimizer,
        model,
        target=None,
        warmup_steps=0,
        pruning_steps=1000,
        periods=10,
        groups: Sequence[str] | None = None,
        name=None,
        channels=None,
        **kwargs,
    ):
        super().__init__(optimizer, name=name, **kwargs)
        if target is not None and channels is not None:
            raise ArgumentError(f"Give either `target` or `channels`. Received: {target!r} and {channels!r}.")
        self.warmup_steps = require_count("warmup_steps", warmup_steps, least=0)
        self.pruning_steps = require_count("pruning_steps", pruning_steps)
        self.periods = require_count("periods", periods)
        if self.periods > self.pruning_steps:
            raise ArgumentError(f"`pruning_steps` must be at least `periods`. Received: {pruning_steps} and {periods}.")
        self.units = units_of(model, groups=groups, removable=True)
        self.zero_channels = self._share(0.5 if target is None else target) if channels is None else channels
        require_count("channels", self.zero_channels, 1, self._most)

    @property
    def _most(self) -> int:
        return self.units.count - len(self.units.groups)

    def _share(self, target) -> int:
        """A share of the channels as a number of them."""
        number = round(target * self.units.count) if is_number(target) and 0 < target < 1 else 0
        if not 1 <= number <= self._most:
            raise ArgumentError(
                f"`target` must be a share in (0, 1) of the {self.units.count} channels that can be zero, which makes "
                f"a number from 1 to {self._most}, as each of the {len(self.units.groups)} groups keeps one; "
                f"`channels` takes a number. Received: {target!r}."
            )
        return number

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._bound = self.units.bind(variables)
        # By channel the period in which it was chosen, or -1.
        self._chosen_in = self.add_variable((self.units.count,), _minus_one, "int32", name="chosen_in")

    def around(self, grads, variables):
        count = ops.cast(self.iterations, "int32")
        super().around(grads, variables)
        updated = ops.cast(self.iterations, "int32") != count
        length = self.pruning_steps // self.periods
        since = count - self.warmup_steps
        period, t = since // length, since % length
        inside = ops.logical_and(since >= 0, since < length * self.periods)
        (chosen_in,) = read([self._chosen_in])
        trained = trained_by(self)
        weights = read(trained)
        chosen_in = ops.cond(
            ops.logical_and(updated, ops.logical_and(inside, t == 0)),
            lambda: self._choose(weights, chosen_in, period),
            lambda: chosen_in,
        )
        left = ops.cast(length - t, "float32")
        decay = ops.where(updated, (left - 1) / left, ops.ones_like(left))
        current = ops.where(ops.logical_and(inside, chosen_in == period), decay, ops.zeros_like(decay))
        factors = ops.where(chosen_in < 0, ops.ones_like(decay), current)
        assign([self._chosen_in], [chosen_in])
        self._scale(trained, weights, factors)
        averages = averages_of(self.inner_optimizer)
        if averages:
            # An average forgets slowly: those of channels at zero are set to it.
            self._scale(averages, read(averages), ops.cast(factors != 0, "float32"))

    def _scale(self, variables, values, factors):
        scaled = self._bound.scaled(values, factors)
        changed = [i for i, (old, new) in enumerate(zip(values, scaled, strict=True)) if old is not new]
        assign([variables[i] for i in changed], [scaled[i] for i in changed])

    def _choose(self, weights, chosen_in, period):
        """Of the channels not chosen yet, the least salient, until the period's number is reached."""
        salience = self._salience(weights)
        free = chosen_in < 0
        salience = ops.where(free, salience, -np.inf)
        widths = [width for _, width in self.units.groups]
        starts = np.cumsum([0, *widths[:-1]])
        # The most salient of each group is not for choice.
        best = ops.stack([
            int(start) + ops.cast(ops.argmax(salience[start : start + width]), "int32")
            for start, width in zip(starts.tolist(), widths, strict=True)
        ])  # fmt: skip
        own_best = ops.take(best, np.repeat(np.arange(len(widths)), widths))
        open_ = ops.logical_and(free, own_best != np.arange(self.units.count))
        order = ops.argsort(ops.where(open_, salience, np.inf))
        rank = ops.argsort(order)
        wanted = self.zero_channels * (period + 1) // self.periods
        have = self.units.count - ops.sum(ops.cast(free, "int32"))
        newly = ops.logical_and(open_, ops.cast(rank, "int32") < wanted - have)
        return ops.where(newly, period, chosen_in)

    def _salience(self, weights):
        sums, counts = [], []
        for squares, (_, place) in zip(self._bound.by_channel(weights), self._bound.places, strict=True):
            own = np.array(place.units) >= 0
            mean = ops.sum(ops.where(own, squares, 0.0)) / int(own.sum())
            sums.append(ops.where(mean > 0, squares / ops.where(mean > 0, mean, 1.0), 0.0))
            # Biases and betas of a fresh model are zero in all channels: they say nothing.
            counts.append(ops.cast(mean > 0, "float32") * np.ones(len(own), "float32"))
        return self._bound.total(sums) / ops.maximum(self._bound.total(counts), 1.0)

    def zeros(self) -> dict[str, int]:
        """By channel group, how many of its channels are at zero now, or on the way there."""
        chosen = ops.convert_to_numpy(self._chosen_in) >= 0
        ends = np.cumsum([width for _, width in self.units.groups])
        parts = np.split(chosen, ends[:-1])
        return {name: int(part.sum()) for (name, _), part in zip(self.units.groups, parts, strict=True)}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        if "channels" not in config:  # a file of an earlier version
            config["channels"] = config.pop("target")
        return super().from_config(config, custom_objects)

    def get_config(self):
        return {
            **super().get_config(),
            "model": self.units.to_config(),
            "channels": self.zero_channels,
            "warmup_steps": self.warmup_steps,
            "pruning_steps": self.pruning_steps,
            "periods": self.periods,
        }


def _minus_one(shape, dtype):
    return -ops.ones(shape, dtype)
