"""A batch size that changes during `fit`."""

import math
from collections.abc import Callable, Mapping
from typing import ClassVar, SupportsFloat, TypeGuard

import keras
import numpy as np

from tfstruct.analyze import gradient_noise_scale
from tfstruct.arguments import checked, require_count, require_number, require_one_of
from tfstruct.callbacks.failed_fit import when_fit_fails
from tfstruct.callbacks.portable import Portable
from tfstruct.errors import ArgumentError, DataError
from tfstruct.graph.keras_model import require_model
from tfstruct.samples.resized import ResizedData, resized

# Ends an epoch as `stop_training` does, but is known as ours: where another callback asks to stop, it puts True.
_END_OF_EPOCH = object()
RULES = {None: lambda ratio: 1.0, "linear": lambda ratio: ratio, "sqrt": math.sqrt}


@checked
class AdaptiveBatchSize(Portable):
    """Grows (or shrinks) the batch between the epochs of one `fit`; one pass over the data stays one epoch.

        adaptive = AdaptiveBatchSize(64, maximum=1024, policy={20: 320, 40: 1024})
        model.fit(adaptive.data(x, y), epochs=60, callbacks=[adaptive])

    A callback cannot change the batches of data that `fit` already holds, so it gives them to `fit` itself: `data`
    makes one `tf.data.Dataset` of arrays, of a batched dataset or of a `PyDataset`, which asks for the size whenever
    an epoch begins; the callback ends the epoch with its last batch. Every sample is in exactly one batch of an epoch,
    the last of which may be smaller. The batch dimension is open, so the training step is not traced again (XLA,
    `jit_compile=True`, compiles for each size).

    When the size goes from b to c, the learning rate is multiplied by c / b (`learning_rate_rule="linear"`, Goyal et
    al. 2017, arXiv:1706.02677), by sqrt(c / b) (`"sqrt"`, Krizhevsky 2014, arXiv:1404.5997) or stays (None). To
    replace a decay of the learning rate, leave it: dividing the rate by q and multiplying the batch by q lower the
    noise of gradient descent alike, in fewer steps (Smith et al. 2018, arXiv:1711.00489).

    Policies:
        `"plateau"`: size * factor where `monitor` has not fallen by more than `min_delta` for `patience` epochs.
        `"noise_scale"`: after each epoch the gradient noise scale (`analyze.gradient_noise_scale`, as in training, on
            `noise_samples` samples in 64 batches; tr(Sigma) and |G|^2 averaged over epochs, weights 1/2, 1/4, ...)
            is compared with the size, which moves by one `factor` towards it where it is off by more than
            sqrt(factor).
        {epoch: size}: the size from that epoch on; `initial` before.
        epoch -> size: a function.
        a `LearningRateSchedule` in epochs, the decay that is replaced: size = initial * schedule(0) / schedule(epoch)
            within the range; what the range cuts off the learning rate makes up for, so that rate / size falls as
            planned. The rate is that of the optimizer at the beginning, not that of the schedule.

    In `history` each epoch has its `batch_size`, and with the noise scale `noise_scale`. A second `fit` goes on with
    the size; a new callback for a training that goes on has to be told it as `initial`, save where the policy knows it
    by epoch: there give `initial_epoch`. The progress bar shows the steps of the first epoch. Validation has its own
    batch size: `fit(..., validation_batch_size=...)`.

    Args:
        initial: the first size, in samples over all replicas.
        maximum, minimum: the range; by default nothing below `initial`.
        policy: see above.
        factor: above 1.
        learning_rate_rule: see above; needs an optimizer with a number as learning rate.
        monitor, patience, min_delta: for `"plateau"`; any value of the logs that falls.
        noise_samples: for `"noise_scale"`.
        seed: of the order of samples; by default from NumPy's, which `keras.utils.set_random_seed` sets.

    Attributes:
        batch_size: of this epoch, or of the next.
        changes: what was changed when and why, in words.

    Raises:
        ArgumentError: an argument out of its range; a size of the policy outside of the range; a learning-rate rule
            with an optimizer whose rate is a schedule; a range that starts below one sample for each replica.
        DataError: data that cannot give `maximum` samples; data without end, or with fewer samples in a later epoch;
            `fit` with other data than `data(...)`, or with `steps_per_epoch`.

    Example:
        >>> adaptive = tfstruct.callbacks.AdaptiveBatchSize(8, maximum=32, policy={1: 32})
        >>> history = model.fit(adaptive.data(x, y), epochs=2, verbose=0, callbacks=[adaptive])
        >>> adaptive.batch_size
        32
    """

    _blank: ClassVar[dict[str, object]] = {"_data": None}  # a copy asks for data(x, y) anew

    def __init__(
        self,
        initial: int,
        maximum: int,
        *,
        minimum: int | None = None,
        policy: str | Mapping[int, int] | Callable = "plateau",
        factor: float = 2,
        learning_rate_rule: str | None = None,
        monitor: str = "loss",
        patience: int = 3,
        min_delta: float = 1e-4,
        noise_samples: int = 512,
        seed: int | None = None,
    ):
        super().__init__()
        minimum = initial if minimum is None else minimum
        for name, value in (("minimum", minimum), ("initial", initial), ("maximum", maximum), ("patience", patience)):
            require_count(name, value)
        if not minimum <= initial <= maximum:
            raise ArgumentError(
                f"Expected minimum <= initial <= maximum. Received: {minimum}, {initial} and {maximum}."
            )
        require_number("factor", factor, above=1)
        require_one_of("learning_rate_rule", learning_rate_rule, RULES)
        if learning_rate_rule and _replaces(policy):
            raise ArgumentError("A schedule as `policy` sets the learning rate itself: give learning_rate_rule=None.")
        if not (policy in ("plateau", "noise_scale") if isinstance(policy, str) else _planned(policy)):
            raise ArgumentError(
                f"`policy` must be 'plateau', 'noise_scale', {{epoch: size}}, a function epoch -> size or a "
                f"LearningRateSchedule in epochs. Received: {policy!r}."
            )
        require_count("noise_samples", noise_samples, least=64)
        self.minimum, self.batch_size, self.maximum = minimum, initial, maximum
        self.initial = initial
        self.policy = policy
        self.factor = factor
        self.learning_rate_rule = learning_rate_rule
        self.monitor, self.patience, self.min_delta = monitor, patience, min_delta
        self.noise_samples = noise_samples
        self.changes: list[str] = []
        self._rng = np.random.default_rng(np.random.randint(2**31) if seed is None else seed)
        self._data: ResizedData | None = None
        if isinstance(policy, Mapping):
            for epoch in policy:
                self._size_at(epoch)

    def data(self, x, y=None, sample_weight=None, *, samples: int | None = None, shuffle: bool = True):
        """The data for `fit`, a `tf.data.Dataset` of batches.

        Args:
            x: arrays as for `fit`, or (x, y) or (x, y, weights) of such; a finite `tf.data.Dataset` of batches (of any
                size) or a `PyDataset`, which hold labels and weights themselves. The batches of a `PyDataset` are
                fetched one after the other.
            samples: how many an epoch of a dataset or `PyDataset` has, the same in each. By default they are counted
                now, which takes a pass over them.
            shuffle: the samples of arrays, the batches of a `PyDataset`; a dataset shuffles itself.
        """
        self._data = resized(x, y, sample_weight, samples, shuffle, self._rng, self._asked_size)
        if self.maximum > self._data.samples:
            raise DataError(
                f"Expected data of at least `maximum` samples, {self.maximum}. Received: {self._data.samples}. Give a "
                "smaller maximum."
            )
        return self._data.dataset

    def _asked_size(self) -> np.int64:
        self._asked = True
        return np.int64(self.batch_size)

    def _steps(self) -> int:
        assert self._data is not None  # other data for `fit` are refused before
        return -(-self._data.samples // self.batch_size)

    def set_params(self, params):
        # Keras does not know the number of steps. The progress bar gets its parameters after this callback.
        self._fed = self._data is not None and params.get("steps") is None
        if self._fed:
            params["steps"] = self._steps()
        super().set_params(params)

    def set_model(self, model) -> None:
        require_model(model)
        super().set_model(model)

    def on_train_begin(self, logs=None):
        if not self._fed:
            raise DataError(_OTHER_DATA)
        replicas = self.model.distribute_strategy.num_replicas_in_sync
        if self.minimum < replicas:
            raise ArgumentError(
                f"`minimum` must be at least {replicas}, one sample a replica. Received: {self.minimum}."
            )
        if self._rate() is None and (self.learning_rate_rule or _replaces(self.policy)):
            raise ArgumentError(
                "Changing the learning rate needs an optimizer with a number as learning rate. Received: a schedule. "
                "Give learning_rate_rule=None, or compile with a number."
            )
        when_fit_fails(self.model, self._stop)
        self._best, self._waited = math.inf, 0
        self._noise = None
        self._begun = False

    @property
    def _fit_data(self) -> ResizedData:
        assert self._data is not None  # other data for `fit` are refused before
        return self._data

    def on_epoch_begin(self, epoch, logs=None):
        self._batches = 0
        self._asked = False
        self._fit_data.begin()
        if _planned(self.policy):
            self._follow_plan(epoch)

    def on_train_batch_end(self, batch, logs=None):
        if not self._asked:
            raise DataError(_OTHER_DATA)
        self._batches = batch + 1
        # One step more would find no data, but TensorFlow would have counted it and decayed the weights by then.
        if self._batches >= self._steps() and not self.model.stop_training:
            self.model.stop_training = _END_OF_EPOCH

    def on_epoch_end(self, epoch, logs=None):
        logs = {} if logs is None else logs
        logs["batch_size"] = self.batch_size
        self._fit_data.end()
        if self.model.stop_training is _END_OF_EPOCH:
            self.model.stop_training = False
        if self._batches < self._steps() and not self.model.stop_training:
            raise DataError(
                f"Expected {self._fit_data.samples} samples in each epoch. Received: at most "
                f"{self._batches * self.batch_size} in epoch {epoch + 1}."
            )
        if self.policy == "plateau":
            self._plateau(epoch, logs)
        elif self.policy == "noise_scale":
            self._follow_noise(epoch, logs)

    def _stop(self):
        self._fit_data.end()
        if self.model.stop_training is _END_OF_EPOCH:
            self.model.stop_training = False

    def _follow_plan(self, epoch):
        if not self._begun:
            # The learning rate is that of the beginning, or was saved after the epoch before.
            self._begun = True
            self.batch_size, self._left = self._size_at(max(epoch - 1, 0))
        size, left = self._size_at(epoch)
        if left != self._left:
            self._scale_rate(left / self._left)
            self._left = left
        self._resize(size, epoch, "as planned")

    def _plateau(self, epoch, logs):
        if self.monitor not in logs:
            raise ArgumentError(f"`monitor` must be one of {sorted(logs)}. Received: {self.monitor!r}.")
        if logs[self.monitor] < self._best - self.min_delta:
            self._best, self._waited = logs[self.monitor], 0
            return
        self._waited += 1
        if self._waited >= self.patience:
            self._waited = 0
            grown = min(round(self.batch_size * self.factor), self.maximum)
            self._resize(grown, epoch + 1, f"{self.monitor} has not fallen for {self.patience} epochs")

    def _follow_noise(self, epoch, logs):
        x, y = self._fit_data.some(self.noise_samples)
        found = gradient_noise_scale(self.model, x, y, batch_size=max(self.noise_samples // 64, 1), training=True)
        now = np.array([found.variance, found.squared_norm])
        self._noise = now if self._noise is None else (self._noise + now) / 2
        scale = self._noise[0] / self._noise[1] if self._noise[1] > 0 else math.inf
        logs["noise_scale"] = scale
        size = self.batch_size
        if scale > size * math.sqrt(self.factor):
            size = min(round(size * self.factor), self.maximum)
        elif scale < size / math.sqrt(self.factor):
            size = max(round(size / self.factor), self.minimum)
        self._resize(size, epoch + 1, f"the gradient noise scale is {scale:.3g}")

    def _resize(self, size: int, epoch: int, why: str):
        if size != self.batch_size:
            self.changes.append(f"epoch {epoch + 1}: {self.batch_size} -> {size}, {why}")
            self._scale_rate(RULES[self.learning_rate_rule](size / self.batch_size))
            self.batch_size = size

    def _size_at(self, epoch: int) -> tuple[int, float]:
        """The planned size, and the share of the learning rate that makes up for what the range cuts off."""
        if _replaces(self.policy):
            # Never 0: there would be no way back for a schedule that rises again.
            ideal = self.initial / max(float(self.policy(epoch)) / float(self.policy(0)), 1e-8)
            size = round(min(max(ideal, self.minimum), self.maximum))
            # Not for rounding: a size that is off by less than one sample.
            return size, size / ideal if abs(size - ideal) >= 1 else 1.0
        if isinstance(self.policy, Mapping):
            begun = [first for first in self.policy if first <= epoch]
            size = self.policy[max(begun)] if begun else self.initial
        else:
            assert callable(self.policy)  # the policies with a name do not know the size by the epoch
            size = self.policy(epoch)
        if not isinstance(size, int | np.integer) or not self.minimum <= size <= self.maximum:
            raise ArgumentError(
                f"`policy` must give sizes from {self.minimum} to {self.maximum}. Received: {size}, epoch {epoch}."
            )
        return int(size), 1.0

    def _rate(self):
        optimizer = self.model.optimizer
        while hasattr(optimizer, "inner_optimizer"):
            optimizer = optimizer.inner_optimizer
        return optimizer.learning_rate if isinstance(optimizer.learning_rate, keras.Variable) else None

    def _scale_rate(self, by: float):
        if by != 1:
            rate = self._rate()
            rate.assign(keras.ops.convert_to_numpy(rate) * by)


_OTHER_DATA = (
    "Expected fit(adaptive.data(x, y), callbacks=[adaptive]) without steps_per_epoch. Received other data for `fit`, "
    "or steps_per_epoch."
)


def _replaces(policy) -> TypeGuard[Callable[[int], SupportsFloat]]:
    return isinstance(policy, keras.optimizers.schedules.LearningRateSchedule)


def _planned(policy) -> bool:
    """Is the size known by the epoch?"""
    return isinstance(policy, Mapping) or callable(policy)
