"""From a Keras model to the figures of its file."""

import dataclasses
import statistics

import keras
import numpy as np

from tfstruct.analyze import Costs
from tfstruct.compression.candidate import Candidate
from tfstruct.compression.dataset import Examples
from tfstruct.compression.quality import Quality
from tfstruct.convert import micro
from tfstruct.convert.agreement import AgreementSum, ScoreCount
from tfstruct.convert.converter import ConverterProcess
from tfstruct.convert.draft import zeros
from tfstruct.convert.latency import LatencyTable
from tfstruct.convert.recipe import Recipe
from tfstruct.convert.runtime import Runtime, latency
from tfstruct.convert.tflite import Converter
from tfstruct.convert.tflite_model import TFLiteModel
from tfstruct.graph import trace
from tfstruct.quantize.twin import Twin
from tfstruct.samples.ports import Ports

_VERIFIED = 64  # samples on which a file is compared with its own Keras model
_ROUNDS = 7
_SECONDS = 0.04


@dataclasses.dataclass(frozen=True)
class Measuring:
    """Converts models and measures their files, all in one way.

    Attributes:
        validation: what quality is measured on.
        truth: its labels, or the original's outputs where there are none.
        expected: the original's outputs, flat.
        quality: the metric.
        process: the converter's.
        calibration: what ranges are found on.
        classes: whether the largest value of every output is a class.
        table: of latencies, instead of this machine's.
        arena: whether tflite-micro is asked for its arena.
        reference: the plain int8 file, in turns with which latencies are measured; None for that file itself.
        reference_us: its latency.
    """

    validation: Examples
    truth: object
    expected: list[np.ndarray]
    quality: Quality
    process: ConverterProcess
    calibration: Examples
    classes: bool = True
    table: LatencyTable | None = None
    arena: bool = False
    reference: bytes | None = None
    reference_us: float = 0.0

    def __call__(
        self, name: str, model: keras.Model | Twin, recipe: Recipe, strategy=()
    ) -> tuple[Candidate, TFLiteModel]:
        """The figures of a model, or of a quantization-aware trained one, and its file."""
        plain = model.model if isinstance(model, Twin) else model
        ports = Ports(plain)
        recipe = recipe.replace(
            calibration=self.calibration.for_file(ports),
            verification=self.validation.take(_VERIFIED).for_file(ports),
            measure_latency=False,  # `latency` below compares with the plain int8 file
        )
        with Converter(model, recipe.timeout, process=self.process) as converter:
            file = converter.convert(recipe)
        outputs = run_file(file.content, plain, self.validation)
        candidate = Candidate(
            name,
            self.quality.name,
            self.quality.measure(self.truth, outputs),
            plain.count_params(),
            len(file.content),
            file.report.gzip_size,
            latency_us=self.latency(file.content, file.layers),
            arena_bytes=micro.arena_bytes(file.content) if self.arena else None,
            greater_is_better=self.quality.greater_is_better,
            scores=self._scores(outputs),
            strategy=strategy,
            **_costs(plain),
        )
        return candidate, file

    def latency(self, content: bytes, layers=None) -> float:
        """Microseconds of one inference: by the table, or measured in turns with the plain int8 file, whose own figure
        is multiplied by the median ratio. So all figures of a run compare, whatever else the machine does."""
        if self.table is not None:
            return self.table.estimate(content, layers).total()
        if self.reference is None:
            return latency(content, zeros(content)).median_us
        ratios = []
        for _ in range(_ROUNDS):
            ours, theirs = (latency(one, zeros(one), seconds=_SECONDS) for one in (content, self.reference))
            ratios.append(ours.median_us / theirs.median_us)
        return self.reference_us * statistics.median(ratios)

    def _scores(self, outputs) -> dict[str, float]:
        found: dict[str, float] = {}
        flat = keras.tree.flatten(outputs)
        agreements = []
        for expected, out in zip(self.expected, flat, strict=True):
            total = AgreementSum()
            total.add(expected, out)
            agreements.append(total.agreement(""))
        top1 = [one.top1_agreement for one in agreements if one.top1_agreement is not None]
        if self.classes and len(top1) == len(agreements):
            found["top1_agreement"] = min(top1)
        found["sqnr_db"] = min(one.sqnr_db for one in agreements)
        if self.validation.labels is not None and len(flat) == 1:
            count = ScoreCount()
            count.add(keras.tree.flatten(self.validation.labels)[0], flat[0])
            counted = count.scores()
            scores = {} if counted is None else dataclasses.asdict(counted)
            found |= {name: value for name, value in scores.items() if value is not None and name != self.quality.name}
        return found


def _costs(model: keras.Model) -> dict[str, int]:
    return Costs(trace(model), ("macs", "peak_memory")).known()


def run_file(content: bytes, model: keras.Model, examples: Examples) -> object:
    """Runs the `.tflite` file of a model on samples; returns its outputs in the structure of the model's."""
    ports = Ports(model)
    outputs = Runtime(content).run_all(examples.for_file(ports))
    return ports.of_file(outputs)
