"""What a search may choose from, and the strategy that a choice stands for."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras

from tfstruct.callbacks.channel_masks import lossless_groups
from tfstruct.compression.steps.downsampling import DownsampleEarly
from tfstruct.compression.steps.dropping import DropBlocks
from tfstruct.compression.steps.factorizing import Factorize
from tfstruct.compression.steps.optimizing import Optimize
from tfstruct.compression.steps.pruning import PruneChannels
from tfstruct.compression.steps.quantizing import Quantize
from tfstruct.compression.steps.step import Step
from tfstruct.compression.task import Task
from tfstruct.convert.devices import device
from tfstruct.errors import PlanError, RecipeError
from tfstruct.graph import groups
from tfstruct.surgery import downsample_early, residual_blocks

_LEAST, _ALL = 0.15, 0.97  # shares of the multiply-accumulates: the least that stays, and what counts as all
_LARGE = 0.15  # of all parameters: a layer worth a factorization


@dataclasses.dataclass(frozen=True)
class Space:
    """The choices of a search. One of a user's own needs the same two: `distributions` and `steps`.

    Attributes:
        channels: (least, most) share of the multiply-accumulates of the original that may stay; None: no channel goes.
        whole: the multiply-accumulates of the original; where it leaves sizes open, its parameters.
        figure: `"macs"`, or `"params"` then.
        multiples: what widths are multiples of.
        gradual: whether channels go while the model trains.
        early: whether the first stage may work on fewer positions.
        blocks: up to how many residual blocks go.
        energies: of kernels that are factorized, that stays; 1: they are not.
        factorized: layers for it.
        methods: of factorization.
        precisions: of the file.
    """

    channels: tuple[float, float] | None = (_LEAST, 1.0)
    whole: int = 1
    figure: str = "macs"
    multiples: tuple[int, ...] = (1, 4, 8)
    gradual: bool = True
    early: bool = False
    blocks: int = 0
    energies: tuple[float, ...] = (1.0,)
    factorized: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("svd",)
    precisions: tuple[str, ...] = ("int8",)

    def __post_init__(self):
        if self.channels is not None and not 0 < self.channels[0] <= self.channels[1] <= 1:
            raise RecipeError(f"`channels` must be (least, most) in (0, 1], or None. Received: {self.channels}.")
        for name in ("multiples", "energies", "methods", "precisions"):
            if not getattr(self, name):
                raise RecipeError(f"`{name}` must have one choice at least. Received: none.")

    @classmethod
    def of(cls, task: Task) -> "Space":
        """What there is to choose for a task. The budget cuts off shares that it rules out."""
        original, graph = task.original, task.graph
        figure = "params" if original.macs is None else "macs"
        whole = getattr(original, figure)
        most = min(task.limits.figures.get(figure, whole) / whole, 1.0)
        some = groups(graph)
        widest = max((group.width for group in some if group.prunable), default=0)
        large = tuple(
            layer.name for layer in task.model.layers
            if hasattr(layer, "kernel") and layer.count_params() >= _LARGE * original.params
        )  # fmt: skip
        return cls(
            channels=(_LEAST * most, most) if widest else None,
            whole=whole,
            figure=figure,
            multiples=tuple(m for m in (1, 4, 8) if m == 1 or 4 * m <= widest),
            gradual=bool(lossless_groups(graph, (), frozen=False)[0]),
            early=_downsamples_early(task.model),
            blocks=min(sum(not block.obstacle for block in residual_blocks(task.model)), 3),
            energies=(1.0, 0.99, 0.9, 0.75) if large else (1.0,),
            factorized=large,
            methods=("svd", "spatial") if any(_of_two_axes(task.model.get_layer(name)) for name in large) else ("svd",),
            precisions=("int8", "int4") if device(task.settings.target).four_bit_weights else ("int8",),
        )

    @property
    def distributions(self) -> dict:
        """Name -> Optuna's distribution of it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        found = {"precision": CategoricalDistribution(self.precisions)}
        if self.channels is not None:
            found["channels"] = FloatDistribution(*self.channels)
            found["multiple"] = CategoricalDistribution(self.multiples)
        if self.early:
            found["early"] = CategoricalDistribution((False, True))
        if self.blocks:
            found["blocks"] = IntDistribution(0, self.blocks)
        if self.factorized:
            found["energy"] = CategoricalDistribution(self.energies)
            if len(self.methods) > 1:
                found["method"] = CategoricalDistribution(self.methods)
        return found

    def steps(self, point: Mapping[str, Any]) -> tuple[Step, ...]:
        """The strategy of a point, a value for each name in `distributions`."""
        found: list[Step] = [Optimize()]
        if point.get("early"):
            found.append(DownsampleEarly())
        if point.get("blocks"):
            found.append(DropBlocks(count=point["blocks"]))
        if point.get("energy", 1.0) < 1:
            method = point.get("method", self.methods[0])
            found.append(Factorize(layers=self.factorized, energy=point["energy"], method=method))
        share = point.get("channels", 1.0)
        if share <= _ALL:
            multiple = point["multiple"] if point["multiple"] > 1 else None
            limit = {self.figure: max(round(share * self.whole), 2)}  # up to 1 would be a share
            found.append(PruneChannels(budget=limit, gradual=self.gradual, round_to=multiple))
        return (*found, Quantize(precision=point["precision"]))


def _downsamples_early(model: keras.Model) -> bool:
    try:
        downsample_early(model)
    except PlanError:
        return False
    return True


def _of_two_axes(layer: keras.layers.Layer) -> bool:
    """A convolution over an area, whose kernel may be a column and a row."""
    return isinstance(layer, keras.layers.Conv2D) and min(layer.kernel_size) > 1
