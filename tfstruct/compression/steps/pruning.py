"""`PruneChannels`: removes channels."""

import dataclasses
from collections.abc import Collection, Mapping

import keras

from tfstruct.analyze import unit_scores
from tfstruct.analyze.names import by_name
from tfstruct.callbacks import PruneChannels as Pruner
from tfstruct.callbacks.channel_masks import lossless_groups
from tfstruct.compression.alternatives.alternative import Alternative, Part
from tfstruct.compression.decision import Decision
from tfstruct.compression.four_bits import FileSize
from tfstruct.compression.outcome import Outcome
from tfstruct.compression.outlook import Outlook
from tfstruct.compression.step_context import StepContext
from tfstruct.compression.steps.step import Choices, Proposal, Step, require_choices
from tfstruct.convert.draft import draft
from tfstruct.errors import EmptyPlanError, RecipeError
from tfstruct.graph import Graph, Group, groups, trace
from tfstruct.graph.frozen import frozen_makers, groups_without_frozen
from tfstruct.schedules import PolynomialRatio
from tfstruct.surgery import Plan, apply, plan_channels, residual_blocks, shrink
from tfstruct.surgery.pruning.exact_widths import reachable_widths

_SHARES = (0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)  # of the channels of a group, that may be chosen
_NEAR = 0.99  # share of a limit on the file's bytes that a draft may have: ranges that were trained take some more
_DRAFTS = 4  # plans whose file is drafted until one has no more bytes than it may
_LEAST, _ALL = 0.15, 0.97  # shares of the multiply-accumulates: the least that stays, and what counts as all


@dataclasses.dataclass(frozen=True)
class ChannelShare(Choices):
    """How much of the model channel pruning keeps.

    Attributes:
        channels: (least, most) share of the multiply-accumulates of the original that may stay; None: no channel goes.
        whole: the multiply-accumulates of the original; where it leaves sizes open, its parameters.
        figure: `"macs"`, or `"params"` then.
        multiples: what widths are multiples of.
        gradual: whether channels go while the model trains.
    """

    place = 0

    channels: tuple[float, float] | None = (_LEAST, 1.0)
    whole: int = 1
    figure: str = "macs"
    multiples: tuple[int, ...] = (1, 4, 8)
    gradual: bool = True

    def __post_init__(self):
        if self.channels is not None and not 0 < self.channels[0] <= self.channels[1] <= 1:
            raise RecipeError(f"`channels` must be (least, most) in (0, 1], or None. Received: {self.channels}.")
        require_choices(self, "multiples")

    @classmethod
    def of(cls, task) -> "ChannelShare":
        """The budget cuts off shares that it rules out."""
        original = task.original
        figure = "params" if original.macs is None else "macs"
        whole = getattr(original, figure)
        most = min(task.limits.figures.get(figure, whole) / whole, 1.0)
        widest = max((group.width for group in groups(task.graph) if group.prunable), default=0)
        return cls(
            (_LEAST * most, most) if widest else None,
            whole,
            figure,
            tuple(m for m in (1, 4, 8) if m == 1 or 4 * m <= widest),
            bool(lossless_groups(task.graph, (), frozen=False)[0]),
        )

    @property
    def distributions(self) -> dict:
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        if self.channels is None:
            return {}
        return {"channels": FloatDistribution(*self.channels), "multiple": CategoricalDistribution(self.multiples)}

    def steps(self, point) -> tuple[Step, ...]:
        share = point.get("channels", 1.0)
        if share > _ALL:
            return ()
        multiple = point["multiple"] if point["multiple"] > 1 else None
        limit = {self.figure: max(round(share * self.whole), 2)}  # up to 1 would be a share
        return (PruneChannels(budget=limit, gradual=self.gradual, round_to=multiple),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruneChannels(Step):
    """Removes channels, with all that is coupled to them, until the model meets a budget, and trains what stays.

    Gradually: channels go to zero while the whole model trains (`callbacks.PruneChannels`), then `surgery.shrink` cuts
    them out. At once: `surgery.plan_channels` and `apply`, batch norms recalibrated. Either way groups with a frozen
    weight (`trainable = False`) are left alone unless `frozen`, and listed as skipped.

    Attributes:
        budget: as in `surgery.plan_channels`, but `tflite_bytes` are those of the int8 file, which is drafted, and not
            of an upper bound; up to 1 the share of the model as it is before this step.
        widths: instead of a budget: path of a layer -> the number of its channels that stay, the most important ones.
            They go at once, and what is coupled with them goes too; the other options on what goes do not count.
        gradual: see above.
        criterion, scope, round_to, min_channels, max_ratio, exclude: of `surgery.plan_channels`.
        regularize, frozen: of `callbacks.PruneChannels`.
        ramp: the share of the epochs in which channels go; at least one epoch.
        rate: the highest learning rate; by default that of the settings.
    """

    kind = "prune_channels"
    share = 0.7
    place = 5
    choices = ChannelShare

    budget: float | Mapping[str, float] | None = None
    widths: Mapping[str, int] | None = None
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

    def __post_init__(self):
        super().__post_init__()
        if self.budget is not None and self.widths is not None:
            raise RecipeError(
                "prune_channels takes `budget` or `widths`: what goes is either found or given. Received: both."
            )

    @classmethod
    def propose(cls, outlook: Outlook) -> Proposal:
        sizing = outlook.sizing
        steps = tuple(cls(reason=sizing.reason, **settings) for settings in sizing.channels)
        return Proposal(steps, (Decision(cls.kind, bool(steps), sizing.reason),))

    @classmethod
    def parts(cls, task) -> tuple[Part, ...]:
        graph = task.graph
        scores = unit_scores(graph, "l2", reduction="mean", normalization="mean", missing="keep")
        droppable = {path for block in residual_blocks(task.model) if not block.obstacle for path in block.branch}
        found = []
        for name, group in groups_without_frozen(graph, by_name(graph)).items():
            path = _width_of(graph, group, droppable)
            if path is None:
                continue
            others = [
                Alternative(f"{width} {_called(path, graph)}", {"layer": path, "width": width})
                for width in _widths(len(graph.makes[path]), reachable_widths(graph, group, path, scores))
            ]
            if others:
                layers = dict.fromkeys([*group.makers, *(member.path for member in group.members)])
                found.append(Part.of(f"width of {name}", cls.kind, others, layers))
        return tuple(found)

    @classmethod
    def assembled(cls, chosen) -> tuple[Step, ...]:
        widths = {one.settings["layer"]: one.settings["width"] for one in chosen.values()}
        return (cls(widths=widths),) if widths else ()

    def edit(self, model):
        return apply(model, plan_channels(model, self.budget, widths=self.widths, criterion=self.criterion))

    def completed(self, sizing) -> "Step":
        return self.replace(budget=sizing().wanted) if self.budget is None and self.widths is None else self

    def run(self, context: StepContext) -> Outcome:
        if not self.budget and not self.widths:
            return Outcome(context.model, skipped=[(context.model.name, "the budget asks for no channels")])
        epochs = self.epochs or 0
        gradually = self.gradual and epochs and not self.widths
        model, done = context.once("pruned", lambda: (self._while_training if gradually else self._at_once)(context))
        left = epochs - self._ramp if gradually else epochs
        history = context.train(model, left, rate=self.rate) if left else []
        return Outcome(model, done["changes"], done["skipped"], done["details"], [*done["history"], *history])

    @property
    def _ramp(self) -> int:
        epochs = self.epochs or 0
        return min(max(1, round(self.ramp * epochs)), epochs)

    def _options(self, context: StepContext) -> dict:
        names = ("criterion", "scope", "round_to", "min_channels", "max_ratio", "exclude")
        own = {name: getattr(self, name) for name in names}
        task = context.task
        return {**own, "data": task.some_data, "loss": task.aim.loss, "latency": task.latency_of, "seed": context.seed}

    def _while_training(self, context: StepContext) -> tuple[keras.Model, dict]:
        model = context.copy()
        settings = context.task.settings
        steps = self._ramp * context.task.train.steps(settings.batch_size)
        when = PolynomialRatio(0.0, 0.5, 0, max(int(0.9 * steps), 1))
        pruner = Pruner(
            self._bounded(context, model)[0],
            when,
            regularize=self.regularize,
            frozen=self.frozen,
            frequency=max(steps // 50, 1),
            **self._options(context),
        )
        history = context.train(
            model, self._ramp, rate=self.rate, decay=self._ramp == self.epochs, callbacks=[pruner], part="pruning"
        )
        report = pruner.report
        rows = [(row.name, f"{row.before} -> {row.after} channels") for row in report.groups if row.after < row.before]
        return shrink(model).model, {
            "changes": rows, "skipped": report.left_alone, "details": report.to_dict(), "history": history,
        }  # fmt: skip

    def _at_once(self, context: StepContext) -> tuple[keras.Model, dict]:
        left = {} if self.frozen else frozen_makers(trace(context.model))
        options = self._options(context)
        if self.widths:
            makes = trace(context.model).makes
            free = {path: width for path, width in self.widths.items() if path not in left}
            left = {path: why for path, why in left.items() if path in self.widths}
            for path in [path for path, width in free.items() if path in makes and len(makes[path]) <= width]:
                left[path] = f"it has {len(makes[path])} channels; {free.pop(path)} may stay"
            options |= {"widths": free, "exclude": ()}
        else:
            options |= {"exclude": (*self.exclude, *left)}
        try:
            plan, model = self._within_bytes(context, options)
        except EmptyPlanError as error:
            left[context.model.name] = str(error)
            return context.copy(), {"changes": [], "skipped": [*left.items()], "details": {}, "history": []}
        context.recalibrate(model)
        widths = plan.widths
        rows = [(path, f"{widths[path]} -> {widths[path] - gone} channels") for path, gone in plan.removed.items()]
        return model, {"changes": rows, "skipped": [*left.items()], "details": plan.to_dict(), "history": []}

    def _within_bytes(self, context: StepContext, options: Mapping) -> tuple[Plan, keras.Model]:
        """The plan, and the model it leaves, whose drafted file has no more bytes than the budget says."""
        limit = None
        if not self.widths:
            budget, limit = self._bounded(context, context.model)
            options = {**options, "budget": budget}
        for _ in range(_DRAFTS):
            plan = plan_channels(context.model, **options)
            model = apply(context.model, plan)
            excess = 0.0 if limit is None else _bytes_of(model, context) - _NEAR * limit
            if excess <= 0:
                break
            budget = options["budget"]
            options = {**options, "budget": {**budget, "tflite_bytes": budget["tflite_bytes"] - excess}}
        return plan, model

    def _bounded(
        self, context: StepContext, model: keras.Model
    ) -> tuple[float | Mapping[str, float] | None, float | None]:
        """The budget with the upper bound of the file's bytes that plans are made by, and the bytes that the file may
        have; None where the budget does not limit them."""
        if not isinstance(self.budget, Mapping) or "tflite_bytes" not in self.budget:
            return self.budget, None
        now, limit = _bytes_of(model, context), self.budget["tflite_bytes"]
        limit = limit if limit > 1 else limit * now
        return {**self.budget, "tflite_bytes": limit + FileSize.of_file(trace(model), now).offset}, limit


def _bytes_of(model: keras.Model, context: StepContext) -> int:
    """Of the int8 file of a model."""
    return len(draft(model, process=context.task.process)[0])


def _width_of(graph: Graph, group: Group, droppable: Collection[str]) -> str | None:
    """What the width of a group is counted by: the first layer that makes its channels and no others, if possible one
    that is in no branch that may be dropped; None where no channel of it can go, or no layer tells."""
    own = set(group.units.tolist())
    makers = [maker for maker in group.makers if set(graph.units.of(graph.makes[maker]).tolist()) <= own]
    makers.sort(key=lambda maker: maker in droppable)
    return makers[0] if makers and group.prunable else None


def _widths(whole: int, reachable: Collection[int]) -> list[int]:
    """The widths to choose from: some shares of the whole, in multiples that kernels are fast with."""
    multiple = 8 if whole >= 32 else 4 if whole >= 16 else 1
    found = []
    for share in _SHARES:
        wanted = max(multiple * round(share * whole / multiple), min(multiple, whole))
        width = min(reachable, key=lambda one: (one % multiple > 0, abs(one - wanted)))
        if width < whole and width not in found:
            found.append(width)
    return sorted(found, reverse=True)


def _called(path: str, graph: Graph) -> str:
    """What is counted: `attention.heads` makes heads."""
    layer, _, what = path.rpartition(".")
    return what if any(call.path == layer for call in graph.calls) else "channels"
