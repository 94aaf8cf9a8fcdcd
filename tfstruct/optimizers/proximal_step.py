"""The proximal operator behind an optimizer's gradient step."""

from collections.abc import Sequence

import keras
from keras import ops

from tfstruct.errors import ArgumentError
from tfstruct.keras_internals.optimizers import StepHooks, trained_by
from tfstruct.optimizers.proximal import Penalty
from tfstruct.optimizers.replicas import assign, native, read


class ProximalStep(StepHooks):
    """Before a Keras optimizer among the bases: `w <- prox(optimizer's step of w)`, over all variables at once.

    It runs where the optimizer's update runs: behind clipping and weight decay, only in steps that update (gradient
    accumulation), before the exponential average and before constraints, which have the last word.
    """

    built: bool

    def _set_penalty(self, penalty) -> None:
        penalties = list(penalty) if isinstance(penalty, Sequence) else [penalty]
        penalties = [keras.saving.deserialize_keras_object(p) if isinstance(p, dict) else p for p in penalties]
        if not penalties or not all(isinstance(p, Penalty) for p in penalties):
            raise ArgumentError(
                f"`penalty` must be an object of tfstruct.optimizers.proximal, or a list of them. "
                f"Received: {penalty!r}."
            )
        self.penalties = tuple(penalties)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)  # type: ignore[misc]  # of the optimizer, behind it
        self._bound_penalties = tuple(penalty.bind(variables) for penalty in self.penalties)

    def after_update(self, learning_rate):
        variables = trained_by(self)
        before = read(variables)
        after = before
        for penalty in self._bound_penalties:
            after = penalty.prox(after, ops.convert_to_tensor(learning_rate))
        changed = [i for i, (old, new) in enumerate(zip(before, after, strict=True)) if old is not new]
        assign([variables[i] for i in changed], [after[i] for i in changed])
        self._moved_on([(i, after[i] - before[i]) for i in changed])

    def _moved_on(self, moves: list[tuple[int, object]]) -> None:
        """Told by how much the prox moved which variables."""

    def after_averaging(self, variables, averages):
        # An average of weights that were zero only lately would not be zero.
        pairs = [
            (average, native(variable))
            for variable, average in zip(variables, averages, strict=True)
            if average is not None
        ]
        kept = [ops.where(variable == 0, ops.zeros_like(variable), average) for average, variable in pairs]
        assign([average for average, _ in pairs], kept)

    def get_config(self):
        penalties = [keras.saving.serialize_keras_object(penalty) for penalty in self.penalties]
        return {**super().get_config(), "penalty": penalties}  # type: ignore[misc]
