"""`Quantize`: integers for weights and activations."""

import dataclasses
from collections.abc import Mapping

import keras

from tfstruct.callbacks import QuantizeAware
from tfstruct.compression.alternatives.alternative import Alternative, Part
from tfstruct.compression.decision import Decision
from tfstruct.compression.four_bits import FileSize, four_bit_layers
from tfstruct.compression.outcome import Outcome
from tfstruct.compression.outlook import Outlook
from tfstruct.compression.precision_choice import SLOW, four_bits_slower
from tfstruct.compression.step_context import StepContext
from tfstruct.compression.steps.step import Choices, Proposal, Step, require_choices
from tfstruct.convert.devices import device
from tfstruct.convert.draft import draft
from tfstruct.convert.recipe import Recipe
from tfstruct.graph import trace
from tfstruct.graph.copying import copied
from tfstruct.graph.kernels import kernels
from tfstruct.precisions import PRECISIONS, TO_CHOOSE
from tfstruct.quantize import Scheme
from tfstruct.quantize.grids import grid

_FREEZE = 0.7  # the share of the steps after which ranges and the statistics of batch norm stay


@dataclasses.dataclass(frozen=True)
class FilePrecision(Choices):
    """How the file is quantized.

    Attributes:
        precisions: of the file.
    """

    place = 4

    precisions: tuple[str, ...] = ("int8",)

    def __post_init__(self):
        require_choices(self, "precisions")

    @classmethod
    def of(cls, task) -> "FilePrecision":
        return cls(TO_CHOOSE if device(task.settings.target).four_bit_weights else TO_CHOOSE[:1])

    @property
    def distributions(self) -> dict:
        from optuna.distributions import CategoricalDistribution

        return {"precision": CategoricalDistribution(self.precisions)}

    def steps(self, point) -> tuple[Step, ...]:
        return (Quantize(precision=point["precision"]),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantize(Step):
    """Trains with the rounding of the file in the forward pass (`callbacks.QuantizeAware`); without epochs the file is
    quantized after training.

    Attributes:
        precision: as in `quantize.Scheme`; None: `"int8"`, and what the budget asks for besides.
        layers: precision by layer, `{pattern: precision}`.
        tflite_bytes: the most that the file may have: beside `layers`, weights get 4 bits in as many layers as that
            takes, the largest first.
        rate: the highest learning rate; by default a hundredth of that of the settings, or a tenth where weights have
            fewer than 8 bits: what 8 bits take away is less than what a higher rate does.
    """

    kind = "quantize"
    share = 0.3
    place = 6
    choices = FilePrecision

    precision: str | None = None
    layers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tflite_bytes: float | None = None
    rate: float | None = None

    @classmethod
    def propose(cls, outlook: Outlook) -> Proposal:
        bits = outlook.sizing.bits
        step = cls(tflite_bytes=bits.tflite_bytes, reason=bits.reason)
        return Proposal((step,), (Decision(cls.kind, True, bits.reason),))

    @classmethod
    def parts(cls, task) -> tuple[Part, ...]:
        """Weights of 4 bits, where the device has kernels for them, the budget asks for bytes, and they are not too
        slow for it."""
        limits = task.limits.figures
        if not {"tflite_bytes", "gzip_bytes"} & limits.keys() or not device(task.settings.target).four_bit_weights:
            return ()
        if "latency_us" in limits and four_bits_slower(task) > SLOW:
            return ()
        return tuple(
            Part.of(f"bits of {path}", cls.kind, [Alternative("4 bits", {"layer": path, "precision": "int4"})], [path])
            for path in FileSize(task.graph).sizes()
        )

    @classmethod
    def assembled(cls, chosen) -> tuple[Step, ...]:
        layers = {one.settings["layer"]: one.settings["precision"] for one in chosen.values()}
        return (cls(precision="int8", layers=layers),)

    def edit(self, model):
        """A copy whose kernels have the values that they have in so many bits."""
        made = copied(model)
        for path, precision in self.layers.items():
            for kernel in kernels(made, [path], depthwise=True):
                stored = PRECISIONS[PRECISIONS[precision].stored_as].weight_bits or 8
                kernel.variable.assign(grid(kernel, Scheme(precision), precision, stored, keras.Variable).quantized())
        return made

    def completed(self, sizing) -> "Step":
        if self.precision is not None or self.tflite_bytes is not None:
            return self
        return self.replace(tflite_bytes=sizing().bits.tflite_bytes)

    @property
    def uses_four_bits(self) -> bool:
        bits = [PRECISIONS[precision].weight_bits for precision in self.layers.values()]
        return self.tflite_bytes is not None or 4 in bits

    def run(self, context: StepContext) -> Outcome:
        task = context.task
        epochs = self.epochs or 0
        steps = epochs * task.train.steps(task.settings.batch_size)
        momentum = 0.99 if steps > 500 else 0.9
        scheme = Scheme(self.precision or "int8", {**self.layers, **self._four_bits(context)}, momentum=momentum)
        if not epochs:
            mixed = "".join(f", {pattern} {precision}" for pattern, precision in scheme.layers.items())
            return Outcome(
                context.model, [(context.model.name, f"{scheme.precision}{mixed}, after training")], scheme=scheme
            )
        model = context.copy()
        mark = int(_FREEZE * steps)
        aware = QuantizeAware(scheme, freeze_ranges=mark or None, freeze_batch_norm=mark or None)
        coarse = any((PRECISIONS[one].weight_bits or 8) < 8 for one in (scheme.precision, *scheme.layers.values()))
        rate = task.settings.learning_rate / (10 if coarse else 100) if self.rate is None else self.rate
        history = context.train(model, epochs, rate=rate, callbacks=[aware])
        report = aware.report
        changes = [(name, f"{bits} bits") for name, bits in report.kernels]
        return Outcome(model, changes, report.skipped, report.to_dict(), history, aware.twin, scheme)

    def _four_bits(self, context: StepContext) -> dict[str, str]:
        if self.tflite_bytes is None:
            return {}
        sizes = FileSize(trace(context.model)).sizes()
        chosen: tuple[str, ...] = ()
        while True:
            layers = dict.fromkeys(chosen, "int4")
            recipe = Recipe(precision=self.precision or "int8", layers={**self.layers, **layers})
            excess = len(draft(context.model, recipe=recipe, process=context.task.process)[0]) - self.tflite_bytes
            if excess <= 0 or len(chosen) == len(sizes):
                return layers
            chosen = four_bit_layers(sizes, excess + sum(sizes[path] / 2 for path in chosen))
