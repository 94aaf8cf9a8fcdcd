"""Whole channels driven to zero while a model trains, until what stays meets a budget."""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import keras
import numpy as np

from tfstruct.analyze.scores import NORMALIZATIONS, REDUCTIONS, criteria, unit_scores
from tfstruct.arguments import checked_but, require_count, require_number
from tfstruct.callbacks import saved_state
from tfstruct.callbacks.baselines import lagging_statistics
from tfstruct.callbacks.channel_factors import ChannelFactors
from tfstruct.callbacks.channel_masks import ChannelMasks, lossless_groups
from tfstruct.callbacks.channel_report import ChannelReport, Widths
from tfstruct.callbacks.compressor import Compressor
from tfstruct.callbacks.constraints import require_held
from tfstruct.errors import ArgumentError, BudgetError, DataError, ModelError
from tfstruct.graph import Group, open_and_trace
from tfstruct.graph.frozen import frozen_note
from tfstruct.samples.for_model import readable_again
from tfstruct.schedules.ratios import PolynomialRatio, RatioSchedule
from tfstruct.surgery.pruning.planner import Options, Planner

_WITH_DATA = ("gradient", "gradient_abs", "hessian", "activation", "apoz", "entropy")
_SHARE_OF_STEPS = 0.6  # the rest of the training is for what stays


@checked_but("budget")
class PruneChannels(Compressor):
    """Drives whole channels to zero, with all that is coupled to them, until the rest of the model meets a budget.

        model.fit(x, y, epochs=8, callbacks=[PruneChannels({"macs": 0.5})])
        smaller = surgery.shrink(model).model

    After training the channels are exactly zero, so `surgery.shrink` removes them without changing an output, and what
    it returns meets the budget. Until then the model keeps its shape.

    Every `frequency` steps the channels are ranked anew on the weights as they are, and those to go are found as
    `surgery.plan_channels` finds them, for the limit C(p) = C_0 + p * (C_budget - C_0) on each cost C of the budget (a
    share for all groups is multiplied by p), where p in [0, 1] is how far the schedule is. What has been chosen once
    goes for good; the last choice, at p = 1, meets the budget itself. `latency_us` is measured when training begins and
    at p = 1; in between, the MACs of the first of these plans stand for it.

    A channel i that is chosen gets a factor f_i on every weight that makes, carries or reads it, as the weight's
    constraint, so the optimizer applies it within its own step:

    - `regularize="projection"`: f_i = 0 at once.
    - `regularize="group_lasso"`: at its k-th update f_i^frequency = max(0, 1 - k * strength * |w_i|_0 / |w_i|), with
      the norm |w_i| of all weights of the channel, and |w_i|_0 when it was chosen. That is the proximal step of the
      group lasso (section 3.3, arXiv:1108.0775), spread over the steps up to the next update, for a penalty that grows
      (as in arXiv:2012.09243). A channel at zero stays there. What is left when the schedule ends is projected.

    Groups that `shrink` could not cut without loss are left alone (a layer that takes statistics over channels, a
    recurrent or attention layer); `report.left_alone` says which and why. So are, unless `frozen`, groups with a frozen
    weight (`trainable = False`): channels that a frozen layer makes, carries (a frozen batch norm) or only reads, as a
    layer that reads fewer channels is another layer. A frozen layer therefore has all its weights after `shrink` too.

    The logs get `channels`, the share of channels at zero, and `macs`, the share of MACs that is left without them.

    Args:
        budget: as in `surgery.plan_channels`: a share in (0, 1) of the channels of every group, or a dict over `macs`,
            `params`, `tflite_bytes`, `peak_memory`, `latency_us`.
        schedule: when; any of `tfstruct.schedules`. Only its shape counts: p = schedule(step) / schedule.final. None:
            p = 1 - (1 - t)^3 over the first 60 % of the steps of the first `fit`, which must be known.
        criterion: of `tfstruct.analyze.importance`.
        regularize: see above.
        frequency: steps from one choice to the next, counted from the schedule's begin; at its end there is one in any
            case.
        strength: of the group lasso: what a channel loses of its norm up to its second update.
        scope, round_to, min_channels, max_ratio, exclude, reduction, normalization, latency, input_shape, open_layers:
            as in `plan_channels`. The model that trains keeps its custom layers: what is opened shows which of their
            weights belong to a channel, and `shrink` opens them the same way.
        frozen: whether channels of frozen weights go too: these weights become zero, and `shrink` cuts the layers.
        data, loss: for criteria that look at data.
        seed: of the random criterion.

    Raises:
        BudgetError: the budget cannot be read, or, when training begins, not be met by the groups that can be pruned.
        PlanError: an option of `plan_channels` that is out of range or names no layer.
        ModelError: the model has no graph, such as a subclassed one, or no group that can be pruned without loss.

    Example:
        >>> history = model.fit(x, y, verbose=0, callbacks=[tfstruct.callbacks.PruneChannels("macs=50%", frequency=1)])
        >>> tfstruct.shrink(model).model.get_layer("hidden").units
        8
    """

    _blank: ClassVar[dict[str, object]] = {"_planner": None, "_groups": {}, "_masks": None}

    def __init__(
        self,
        budget: float | Mapping[str, float] | str,
        schedule: RatioSchedule | None = None,
        criterion: str | Callable = "l2",
        regularize: str = "projection",
        *,
        frequency: int = 100,
        strength: float = 0.1,
        scope: str = "global",
        round_to: int | Mapping[str, int] | None = None,
        min_channels: int | Mapping[str, int] = 1,
        max_ratio: float | Mapping[str, float] = 1.0,
        exclude: str | Sequence[str] = (),
        frozen: bool = False,
        data=None,
        loss=None,
        reduction: str = "mean",
        normalization: str = "mean",
        latency: Callable[[keras.Model], float] | None = None,
        input_shape=None,
        open_layers: str | bool = "auto",
        seed: int = 0,
    ):
        super().__init__()
        if budget is None:
            raise BudgetError(
                "PruneChannels needs a `budget`, such as 0.5, 'macs=50%' or {'macs': 0.5}. Received: None."
            )
        self.options = Options(budget, scope, round_to, min_channels, max_ratio, exclude, latency)
        if schedule is not None and not (isinstance(schedule, RatioSchedule) and schedule.final > 0):
            raise ArgumentError(
                "`schedule` says when channels go: a RatioSchedule that rises, such as PolynomialRatio(0.0, 0.5, "
                f"begin=0, end=5000), or None for the first 60 % of `fit`. Received: {schedule!r}."
            )
        known = {
            "criterion": criteria(), "regularize": ("projection", "group_lasso"), "reduction": REDUCTIONS,
            "normalization": NORMALIZATIONS,
        }  # fmt: skip
        given = {
            "criterion": criterion,
            "regularize": regularize,
            "reduction": reduction,
            "normalization": normalization,
        }
        for name, value in given.items():
            if value not in known[name] and not (name == "criterion" and callable(value)):
                raise ArgumentError(f"`{name}` must be one of {', '.join(known[name])}. Received: {value!r}.")
        if criterion in _WITH_DATA and data is None:
            raise DataError(f"The criterion {criterion} looks at data: give data=(x, y), some hundred samples.")
        frequency = require_count("frequency", frequency)
        strength = require_number("strength", strength, above=0, most=1)
        self.schedule, self.criterion, self.regularize = schedule, criterion, regularize
        self.frequency, self.strength, self.frozen = frequency, float(strength), frozen
        self.input_shape, self.open_layers = input_shape, open_layers
        self._scoring = {
            "data": data, "loss": loss, "reduction": reduction, "normalization": normalization, "seed": seed,
            "missing": "keep",
        }  # fmt: skip
        self._planner: Planner | None = None
        self._groups: dict[str, Group] = {}
        self._alone: dict[str, str] = {}
        self._masks: ChannelMasks | None = None
        self._factors: ChannelFactors | None = None
        self._stand_in = self._latency = float("nan")
        self._complete = False
        self._tested = False
        self._history: list[tuple[int, float, float]] = []
        self._logged: dict[str, float] = {}
        self._notes: list[str] = []
        self._settings = saved_state.described({
            "budget": budget, "schedule": schedule, "criterion": criterion, "regularize": regularize,
            "frequency": frequency, "strength": strength, "scope": scope, "round_to": round_to,
            "min_channels": min_channels, "max_ratio": max_ratio, "exclude": exclude, "frozen": frozen,
            "reduction": reduction, "normalization": normalization, "open_layers": open_layers, "seed": seed,
        })  # fmt: skip

    def kept(self) -> dict[str, np.ndarray]:
        """By layer, which of the channels that it makes are not zero, boolean; only while attached."""
        planner, factors = self._planner, self._factors
        if planner is None or factors is None:
            raise ModelError("There are no channels yet: this PruneChannels was not attached to a model.")
        stays = planner.graph.units.kept(~factors.zero)
        return {path: stays[labels] for path, labels in planner.graph.makes.items()}

    def _held(self) -> tuple[Planner, ChannelFactors, ChannelMasks]:
        """What there is from `_begin` on."""
        assert self._planner is not None and self._factors is not None and self._masks is not None
        return self._planner, self._factors, self._masks

    def observe(self, logs: dict) -> None:
        if self.schedule is not None:
            self.schedule.observe(logs, self.steps)

    def _begin(self, model: keras.Model) -> None:
        self._tested = False
        self._scoring["data"] = readable_again(model, self._scoring["data"])
        graph, before = open_and_trace(model, self.input_shape, self.open_layers), list(self._groups)
        self._groups, self._alone = lossless_groups(graph, self.options.exclude, self.frozen)
        self._notes = frozen_note(list(self._alone.items()), "groups of channels")
        if not self._groups:
            reasons = "; ".join(f"{name}: {why}" for name, why in list(self._alone.items())[:6])
            raise ModelError(
                f"`{model.name}` has no channels that can be pruned without loss. {' '.join([reasons, *self._notes])}"
            )
        self._planner = Planner(graph, tuple(self._groups.values()), self.options)
        factors = self._factors
        if factors is None:
            self._require_within_reach(self._planner)
            self._factors = ChannelFactors(graph.units.count)
        concerned = np.zeros(graph.units.count, bool)
        for group in self._groups.values():
            concerned[group.units] = True
        self._masks = ChannelMasks(graph, concerned, type(self).__name__)
        if self._stored is not None:
            return  # the weights are those of a later step, which the stored choice belongs to
        if factors is not None:  # a second `fit`
            self._masks.set(factors.value)
            self._complete &= before in ([], list(self._groups))  # those that were unfrozen since may have to give
        elif self.schedule is not None and self.schedule.begin == 0:
            self._choose(self.schedule, 0)
        self._note()

    def _require_within_reach(self, planner: Planner) -> None:
        try:
            _, after = planner.choose(self._scores(planner))
        except BudgetError as error:
            alone = f" Left alone: {', '.join(list(self._alone)[:8])}." if self._alone else ""
            raise BudgetError(f"{error}{alone}", error.least) from error
        self._stand_in = after.get("macs", float("nan"))

    def on_epoch_begin(self, epoch, logs=None) -> None:
        super().on_epoch_begin(epoch, logs)
        if self.schedule is None:
            if not self.params.get("steps"):
                raise ArgumentError(
                    "The number of steps is not known before the first epoch, so PruneChannels needs a `schedule`, "
                    "such as PolynomialRatio(0.0, 0.5, begin=0, end=5000), or `fit` needs steps_per_epoch."
                )
            left = (self.params["epochs"] - epoch) * self.params["steps"]
            self.schedule = _cubic(self.steps, self.steps + max(1, round(_SHARE_OF_STEPS * left)))

    def _advance(self, before: int, now: int) -> None:
        if self.schedule is None:
            raise ModelError(
                "PruneChannels knows the number of steps in `fit` only: give it a `schedule`, such as "
                "PolynomialRatio(0.0, 0.5, begin=0, end=5000)."
            )
        _, factors, masks = self._held()
        if not self._tested and factors.zero.any():
            self._tested = True
            require_held(masks.masked)
        if self._due(self.schedule, before, now):
            self._choose(self.schedule, now)

    def _due(self, schedule: RatioSchedule, before: int, now: int) -> bool:
        begin, end = schedule.begin, schedule.end
        if now < begin or self._complete:
            return False
        periods = [max(step - begin, -1) // self.frequency for step in (before, now)]
        return periods[0] != periods[1] or now >= end

    def _choose(self, schedule: RatioSchedule, step: int) -> None:
        """New channels to go for this step, and new factors for all that are on their way."""
        planner, factors, masks = self._held()
        self._complete = step >= schedule.end  # for good: the end of a schedule that listens moves
        progress = 1.0 if self._complete else min(schedule(step) / schedule.final, 1.0)
        scores = self._scores(planner)
        for name, group in self._groups.items():
            if not np.isfinite(scores[group.free[~factors.chosen[group.free]]]).all():
                raise ModelError(f"The scores of {name} are not finite: training has diverged.")
        limits = planner.limits if self._complete else planner.on_the_way(progress, self._stand_in)
        keep, after = planner.choose(scores, limits, factors.chosen)
        factors.chosen = ~keep
        self._latency = after.get("latency_us", float("nan"))
        if self._complete or self.regularize == "projection":
            factors.project()
        else:
            factors.drive(masks.norms(), self.strength, self.frequency)
        masks.set(factors.value)
        self._note()
        self._history.append((step, float(progress), self._logged["channels"]))

    def _scores(self, planner: Planner) -> np.ndarray:
        return unit_scores(planner.graph, self.criterion, **self._scoring)

    def _note(self) -> None:
        planner, factors, _ = self._held()
        zero = factors.zero
        units = np.concatenate([group.units for group in self._groups.values()])
        self._logged = {"channels": float(zero[units].mean())}
        after, before = planner.figures(~zero), planner.before
        if "macs" in after:
            self._logged["macs"] = after["macs"] / before["macs"]

    def _log(self, logs: dict | None) -> None:
        if logs is not None:
            logs.update(self._logged)

    def on_epoch_end(self, epoch, logs=None) -> None:
        self._log(logs)

    def _end(self, model: keras.Model) -> ChannelReport:
        planner, factors, masks = self._held()
        if not masks.hold():
            self._notes.append(
                "Channels at zero were put back at the end of training (EarlyStopping, moving averages or "
                "set_weights): the masks were applied again."
            )
        masks.apply()
        if not self._complete:
            progress = self._history[-1][1] if self._history else 0.0
            end = "" if self.schedule is None else f" (step {self.schedule.end})"
            self._notes.append(
                f"Training ended at step {self.steps}, before the schedule did{end}: {progress:.1%} of the way to the "
                "budget. A second fit with this callback goes on from here."
            )
        zero = factors.zero
        self._notes += lagging_statistics(model, self.steps - self._last_gone(), "the last channels went")
        after = planner.figures(~zero)
        if np.isfinite(self._latency):
            after["latency_us"] = self._latency
        rows = [
            Widths(name, group.makers, group.width, int((~zero[group.units]).sum()))
            for name, group in self._groups.items()
        ]
        criterion = self.criterion
        if not isinstance(criterion, str):
            criterion = getattr(criterion, "__name__", repr(criterion))
        budget = self.options.budget
        assert budget is not None and not isinstance(budget, str)  # it has to be given, and texts are read
        self._let_go()
        return ChannelReport(
            budget, planner.limits, criterion, self.options.scope, self.regularize, tuple(rows),
            tuple(self._alone.items()), planner.before, after, tuple(self._history), self._complete,
            tuple(self._notes), opened=planner.graph.opened, opaque=planner.graph.opaque,
        )  # fmt: skip

    def _last_gone(self) -> int:
        """The step at which the last channels went to zero."""
        shares = [0.0, *(share for _, _, share in self._history)]
        pairs = zip(self._history, shares, strict=False)
        return max((step for (step, _, now), before in pairs if now > before), default=self.steps)

    def _let_go(self) -> None:
        if self._home is None:
            self._factors = None  # never attached: begins anew
        if self._masks is not None:
            self._masks.remove()

    def _belongs(self, state: dict[str, np.ndarray]) -> bool:
        self._require_alike(state)
        _, _, masks = self._held()
        return masks.zero_already(state["value"])

    def _state(self) -> dict[str, np.ndarray]:
        _, factors, _ = self._held()
        state = {
            **factors.state(),
            "complete": np.asarray(self._complete), "history": np.asarray(self._history, float).reshape(-1, 3),
            "stand_in": np.asarray(self._stand_in), "latency": np.asarray(self._latency),
        }  # fmt: skip
        if self.schedule is not None:
            state["begin"], state["end"] = np.asarray(self.schedule.begin), np.asarray(self.schedule.end)
            state.update({f"schedule_{name}": np.asarray(value) for name, value in self.schedule.state().items()})
        return state

    def _require_alike(self, state: dict[str, np.ndarray]) -> None:
        _, factors, _ = self._held()
        if any(state[name].shape != value.shape for name, value in factors.state().items()):
            raise ModelError("The file was written while a model with other channels was pruned.")

    def _restore(self, state: dict[str, np.ndarray]) -> None:
        self._require_alike(state)
        _, factors, masks = self._held()
        factors.restore(state)
        self._complete = bool(state["complete"])
        self._stand_in, self._latency = float(state["stand_in"]), float(state["latency"])
        self._history = [(int(step), float(progress), float(share)) for step, progress, share in state["history"]]
        start = "schedule_"
        if self.schedule is None and "end" in state:
            self.schedule = _cubic(int(state["begin"]), int(state["end"]))
        elif self.schedule is not None:
            self.schedule.restore({k.removeprefix(start): v for k, v in state.items() if k.startswith(start)})
        masks.set(factors.value)
        self._note()


def _cubic(begin: int, end: int) -> PolynomialRatio:
    return PolynomialRatio(0.0, 0.5, begin, end)
