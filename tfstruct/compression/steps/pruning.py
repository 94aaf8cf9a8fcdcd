"""Channels that go."""

import dataclasses
from collections.abc import Mapping

import keras

from tfstruct.callbacks import PruneChannels as Pruner
from tfstruct.compression.outcome import Outcome
from tfstruct.compression.steps.step import Step
from tfstruct.compression.work import Work
from tfstruct.errors import EmptyPlanError
from tfstruct.graph import trace
from tfstruct.graph.frozen import frozen_makers
from tfstruct.schedules import PolynomialRatio
from tfstruct.surgery import apply, plan_channels, shrink


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruneChannels(Step):
    """Removes channels, with all that is coupled to them, until the model meets a budget, and trains what stays.

    Gradually: channels go to zero while the whole model trains (`callbacks.PruneChannels`), then `surgery.shrink` cuts
    them out. At once: `surgery.plan_channels` and `apply`, batch norms recalibrated. Either way groups with a frozen
    weight (`trainable = False`) are left alone unless `frozen`, and listed as skipped.

    Attributes:
        budget: as in `surgery.plan_channels`; up to 1 the share of the model as it is before this step.
        gradual: see above.
        criterion, scope, round_to, min_channels, max_ratio, exclude: of `surgery.plan_channels`.
        regularize, frozen: of `callbacks.PruneChannels`.
        ramp: the share of the epochs in which channels go; at least one epoch.
        rate: the highest learning rate; by default that of the settings.
    """

    kind = "prune_channels"
    share = 0.7

    budget: float | Mapping[str, float] | None = None
    gradual: bool = True
    criterion: str = "l2"
    scope: str = "global"
    round_to: int | None = None
    min_channels: int = 1
    max_ratio: float = 1.0
    exclude: tuple[str, ...] = ()
    regularize: str = "projection"
    frozen: bool = False
    ramp: float = 0.3
    rate: float | None = None

    def run(self, work: Work) -> Outcome:
        if not self.budget:
            return Outcome(work.model, skipped=[(work.model.name, "the budget asks for no channels")])
        epochs = self.epochs or 0
        gradually = self.gradual and epochs
        model, done = work.once("pruned", lambda: (self._while_training if gradually else self._at_once)(work))
        left = epochs - self._ramp if gradually else epochs
        history = work.train(model, left, rate=self.rate) if left else []
        return Outcome(model, done["changes"], done["skipped"], done["details"], [*done["history"], *history])

    @property
    def _ramp(self) -> int:
        epochs = self.epochs or 0
        return min(max(1, round(self.ramp * epochs)), epochs)

    def _options(self, work: Work) -> dict:
        names = ("criterion", "scope", "round_to", "min_channels", "max_ratio", "exclude")
        own = {name: getattr(self, name) for name in names}
        task = work.task
        return {**own, "data": task.some_data, "loss": task.aim.loss, "latency": task.latency_of, "seed": work.seed}

    def _while_training(self, work: Work) -> tuple[keras.Model, dict]:
        model = work.copy()
        settings = work.task.settings
        steps = self._ramp * work.task.train.steps(settings.batch_size)
        when = PolynomialRatio(0.0, 0.5, 0, max(int(0.9 * steps), 1))
        pruner = Pruner(
            self.budget,
            when,
            regularize=self.regularize,
            frozen=self.frozen,
            frequency=max(steps // 50, 1),
            **self._options(work),
        )
        history = work.train(
            model, self._ramp, rate=self.rate, decay=self._ramp == self.epochs, callbacks=[pruner], part="pruning"
        )
        report = pruner.report
        rows = [(row.name, f"{row.before} -> {row.after} channels") for row in report.groups if row.after < row.before]
        return shrink(model).model, {
            "changes": rows, "skipped": report.left_alone, "details": report.to_dict(), "history": history,
        }  # fmt: skip

    def _at_once(self, work: Work) -> tuple[keras.Model, dict]:
        options = self._options(work)
        left = {} if self.frozen else frozen_makers(trace(work.model))
        options["exclude"] = (*options["exclude"], *left)
        try:
            plan = plan_channels(work.model, self.budget, **options)
        except EmptyPlanError as error:
            left[work.model.name] = str(error)
            return work.copy(), {"changes": [], "skipped": [*left.items()], "details": {}, "history": []}
        model = apply(work.model, plan)
        work.recalibrate(model)
        widths = plan.widths
        rows = [(path, f"{widths[path]} -> {widths[path] - gone} channels") for path, gone in plan.removed.items()]
        return model, {"changes": rows, "skipped": [*left.items()], "details": plan.to_dict(), "history": []}
