"""`Lookahead`: slow weights behind fast ones."""

import keras
from keras import ops

from tfstruct.arguments import checked, require_count, require_number
from tfstruct.keras_internals.optimizers import place_of
from tfstruct.optimizers.replicas import assign, projected, read
from tfstruct.optimizers.wrapper import Wrapper


@checked
@keras.saving.register_keras_serializable(package="tfstruct")
class Lookahead(Wrapper):
    """Lets an optimizer run ahead, and every few steps goes a part of the way after it.

    ```
    w <- inner optimizer's step of w                    every step
    s <- s + slow_step * (w - s);  w <- s               every sync_period steps
    ```

    The slow weights s start as the weights before the first step. Steps are updates of the inner optimizer: with
    gradient accumulation not every batch is one. The inner optimizer's EMA averages the fast weights. Constraints, and
    so masks, hold of the slow weights too. Slow weights
    are mixtures: put sparse optimizers around this one, `StructuredSparse(Lookahead(...), model)`, not into it.

    Args:
        optimizer: a Keras optimizer, which keeps its weight decay, clipping, EMA, accumulation and loss scale.
        sync_period: k, 1 or larger.
        slow_step: alpha, in (0, 1].

    Raises:
        ArgumentError: an argument out of range, or one that belongs to the inner optimizer.

    Source: Zhang et al., arXiv:1907.08610, Algorithm 1.

    Example:
        >>> model.compile(tfstruct.optimizers.Lookahead("adam", sync_period=5), "mse")
    """

    def __init__(self, optimizer, sync_period=6, slow_step=0.5, name=None, **kwargs):
        super().__init__(optimizer, name=name, **kwargs)
        self.sync_period = require_count("sync_period", sync_period)
        require_number("slow_step", slow_step, above=0, most=1)
        self.slow_step = float(slow_step)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._slow = self.add_optimizer_variables(variables, "slow")

    def around(self, grads, variables):
        slow = [self._slow[place_of(self, v)] for v in variables]
        variables = [v for v, s in zip(variables, slow, strict=True) if s is not None]
        slow = [s for s in slow if s is not None]
        count = ops.cast(self.iterations, "int32")
        before = read(variables)
        super().around(grads, variables)
        after = ops.cast(self.iterations, "int32")
        sync = ops.logical_and(after != count, after % self.sync_period == 0)
        start = [ops.where(count == 0, w, s) for w, s in zip(before, read(slow), strict=True)]
        fast = read(variables)
        ahead = projected(variables, [s + self.slow_step * (w - s) for w, s in zip(fast, start, strict=True)])
        moved = [ops.where(sync, a, s) for a, s in zip(ahead, start, strict=True)]
        assign(slow, moved)
        assign(variables, [ops.where(sync, s, w) for w, s in zip(fast, moved, strict=True)])

    def get_config(self):
        return {**super().get_config(), "sync_period": self.sync_period, "slow_step": self.slow_step}
