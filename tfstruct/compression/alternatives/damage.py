"""What each alternative loses: made alone in its region, taught by the original, and judged on held-out samples."""

import dataclasses
import functools
import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfstruct.analyze.data_criteria import structured
from tfstruct.analyze.losses import slices
from tfstruct.compression.alternatives.activations import Activations, Tail
from tfstruct.compression.alternatives.alternative import At, Conflict, Part
from tfstruct.compression.alternatives.distances import Distance, constant_for, distance_of, summed
from tfstruct.compression.alternatives.offered import conflicts_of, steps_of
from tfstruct.compression.alternatives.regions import Region, region_model, region_of, whole_model
from tfstruct.compression.alternatives.short_training import ShortAdam
from tfstruct.compression.folder import WorkingFolder
from tfstruct.compression.steps.step import Step
from tfstruct.compression.task import Task
from tfstruct.errors import ModelError, PlanError
from tfstruct.surgery import recalibrate_batch_norm
from tfstruct.surgery.pruning.batch_norm import batch_norms_of

_SAMPLES = 1024  # of the training data, that alternatives are taught on
_STORED = 2 << 30  # bytes of recorded values: of large models fewer samples are taken
_FEWEST = 32
_JUDGED = 256  # samples at a time
_RECORDED = ("taught on", "judged on")  # folders of recorded values that do not fit into memory
_RATE = 1e-3
_NOTHING = "nothing.json"
_UNTAUGHT = ("quantize",)  # kinds whose edit comes after the training


@dataclasses.dataclass(frozen=True)
class Damages:
    """What alternatives lose, each alone in the place of the original, on held-out samples.

    The loss is the distance of the model's outputs to those of the original, summed over the outputs: of classes the
    Kullback-Leibler divergence, of other values the squared error as a share of their variance.

    Attributes:
        parts: name of a part -> its loss by alternative; 0 for the part as it is.
        pairs: two alternatives of different parts -> what they lose together beyond the sum of each alone.
        failed: part and alternative -> why it could not be made; its loss is that of the worst of all.
        steps: of training of each alternative.
        samples: held-out samples that they were judged on; of large models fewer than are held out.
        nothing: the loss of a model that knows nothing: it makes of every sample the mean of what the original makes.
    """

    parts: Mapping[str, np.ndarray]
    pairs: Mapping[tuple[At, At], float]
    failed: Mapping[At, str]
    steps: int
    samples: int
    nothing: float = math.inf


def measure_damages(
    task: Task,
    parts: Sequence[Part],
    *,
    steps: int = 100,
    pairs: int = 6,
    samples: int = _SAMPLES,
    batch_size: int = 64,
    folder: WorkingFolder | None = None,
) -> Damages:
    """Measures what each alternative of each part loses.

    An alternative is made in a copy of the smallest region that holds all that it changes (the whole model where there
    is none), its batch norms are measured anew, and it is trained with Adam on what the original's region makes of the
    same input. Then it stands in the original's place. All regions read values that one pass of the original has
    recorded. What has been measured is in the folder: a killed run goes on from there to the same numbers.

    Args:
        task: model and data; training samples teach, held-out ones judge.
        parts: of the task.
        steps: of training; 0: none.
        pairs: how many pairs of alternatives of parts that have layers in common are tried together.
        samples: of the training data that are recorded; fewer where the values would not fit on the disk.
        batch_size: of training.
        folder: for the results; by default `damages` in the task's.

    Raises:
        ModelError: the task holds no samples out.
    """
    if task.held_out is None:
        raise ModelError(
            "Alternatives are judged on samples that nothing trains on, and the training data is too small to hold "
            "some out. Give 192 samples or more."
        )
    conflicts = conflicts_of(parts)
    alone = [((part.name, i),) for part in parts for i in range(1, len(part.alternatives))]
    jobs = [*alone, *_pairs_to_try(parts, conflicts, pairs, task.settings.seed)]
    work = _Work(task, parts, jobs, steps, samples, batch_size, folder or task.folder.inner("damages"))
    task.progress.stage("measure alternatives")
    task.progress.expect(len(jobs))
    found: dict[tuple[At, ...], dict] = {}
    try:
        for job in jobs:
            found[job] = work.result(job)
            task.progress.step()
        nothing = work.knows_nothing()
    finally:
        work.close()
    return dataclasses.replace(_summary(parts, found, steps), nothing=nothing)


def _summary(parts: Sequence[Part], found: Mapping[tuple[At, ...], dict], steps: int) -> Damages:
    failed = {job[0]: result["why"] for job, result in found.items() if len(job) == 1 and result["why"]}
    worst = max((result["loss"] for result in found.values() if not result["why"]), default=0.0)
    losses = {part.name: np.zeros(len(part.alternatives)) for part in parts}
    for job, result in found.items():
        if len(job) == 1:
            ((name, place),) = job
            losses[name][place] = worst if result["why"] else result["loss"]
    beyond = {
        (job[0], job[1]): result["loss"] - sum(losses[name][place] for name, place in job)
        for job, result in found.items()
        if len(job) == 2 and not result["why"] and not failed.keys() & set(job)
    }
    judged = max((result["samples"] for result in found.values()), default=0)
    return Damages(losses, beyond, failed, steps, judged)


def _pairs_to_try(parts: Sequence[Part], conflicts: Sequence[Conflict], count: int, seed: int) -> list[tuple[At, At]]:
    """Some pairs of alternatives of parts that have layers in common, no two of the same parts."""
    near = [
        (one, other) for i, one in enumerate(parts) for other in parts[i + 1 :] if set(one.layers) & set(other.layers)
    ]
    rng = np.random.default_rng([seed, 1])
    found: list[tuple[At, At]] = []
    for number in rng.permutation(len(near)).tolist():
        one, other = ((part.name, len(part.alternatives) // 2) for part in near[number])
        if len(found) < count and not any(apart.excludes(dict((one, other))) for apart in conflicts):
            found.append((one, other))
    return found


class _Work:
    """What results are made with. The recorded values are there when the first is missing."""

    def __init__(self, task, parts, jobs, steps: int, samples: int, batch_size: int, folder: WorkingFolder):
        self._task, self._graph, self._steps = task, task.graph, steps
        self._samples, self._batch, self._folder = samples, batch_size, folder
        self._parts = {part.name: part for part in parts}
        self._whole = whole_model(task.graph)
        regions: dict[frozenset[int], Region] = {}
        self._regions: dict[tuple[At, ...], Region] = {}
        for job in jobs:
            region = region_of(task.graph, [layer for name, _ in job for layer in self._parts[name].layers])
            self._regions[job] = regions.setdefault(frozenset(id(call) for call in region.calls), region)
        self._variances: dict[int, float] = {}
        self._originals: dict[int, keras.Model] = {}
        self._tails = {id(region): Tail(task.graph, region) for region in regions.values() if not region.whole}

    def close(self) -> None:
        """Removes the recorded values, which may be gigabytes; results stay."""
        for name in ("_train", "_held_out"):
            vars(self).pop(name, None)
        for name in _RECORDED:
            shutil.rmtree(self._folder.path / name, ignore_errors=True)

    def result(self, job: tuple[At, ...]) -> dict:
        """What was measured of some alternatives together, now or by an earlier call."""
        name = self._name(job)
        known = self._folder.read(name)
        if known is None:
            region, loss, error, why = self._measured(job, int(name[:7], 16))
            picked = {name: self._parts[name].alternatives[place].name for name, place in job}
            known = {"picked": picked, "region": region.name, "loss": loss, "error": error, "why": why}
            known["samples"] = 0 if why else len(self._held_out)
            self._folder.write(name, known)
        return known

    def knows_nothing(self) -> float:
        """The loss of the constant that is nearest to what the original makes, now or by an earlier call."""
        known = self._folder.read(_NOTHING)
        if known is None:
            held, outputs = self._held_out, self._whole.outputs
            parts = list(slices(len(held), _JUDGED))
            constants = [
                constant_for(kind, (held.batch([x], part)[id(x)] for part in parts))
                for kind, x in zip(self._task.aim.kinds, outputs, strict=True)
            ]
            distances, total = self._distances(self._whole), 0.0
            for part in parts:
                theirs = [held.batch([x], part)[id(x)] for x in outputs]
                same = [tf.broadcast_to(one, tf.shape(t)) for one, t in zip(constants, theirs, strict=True)]
                total += float(tf.reduce_sum(summed(distances, theirs, same)))
            known = {"loss": total / len(held)}
            self._folder.write(_NOTHING, known)
        return known["loss"]

    def _name(self, job: tuple[At, ...]) -> str:
        """The file of a result, named after all that it depends on; the task has its folder for itself."""
        alternatives = [
            [self._parts[name].kind, self._parts[name].alternatives[place].to_dict()] for name, place in job
        ]
        about = [alternatives, self._steps, self._samples, self._batch]
        return f"{hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]}.json"

    def _measured(self, job, seed: int) -> tuple[Region, float | None, float | None, str]:
        """Region, loss of the model, distance of what the region makes, and why there are none."""
        region = self._regions[job]
        keras.utils.set_random_seed(self._task.settings.seed + seed)
        try:
            *edits, rounding = self._edits(job)
            made = self._made(region, edits)
            if not region.whole and _shapes(made.outputs) != _shapes(region.outputs):
                region = self._whole  # what it changes is seen outside
                made = self._made(region, edits)
            self._recalibrate(made, region)
            if self._steps and edits:
                self._teach(made, region, seed)
            if rounding is not None:
                made = rounding.edit(made)
                self._recalibrate(made, region)
        except (ModelError, PlanError) as refused:
            return region, None, None, str(refused).splitlines()[0]
        loss, error = self._judged(made, region)
        if not math.isfinite(loss):
            return region, None, None, "what it makes are no finite numbers"
        return region, loss, error, ""

    def _made(self, region: Region, edits: Sequence[Step | None]) -> keras.Model:
        """A region after some edits, on variables of its own. They start from one model a region, as most of them make
        a new one of it."""
        if id(region) not in self._originals:
            self._originals[id(region)] = region_model(self._graph, region)
        original = self._originals[id(region)]
        made = edited(original, edits)
        if {id(v) for v in made.variables} & {id(v) for v in original.variables}:
            return edited(region_model(self._graph, region), edits)
        return made

    def _edits(self, job) -> list[Step | None]:
        """The steps of some alternatives, and last the one that rounds kernels, or None: rounded kernels would leave
        their grid in training."""
        steps = steps_of({self._parts[name]: self._parts[name].alternatives[place] for name, place in job})
        edits: list[Step | None] = [step for step in steps if step.kind not in _UNTAUGHT]
        rounding: list[Step | None] = [step for step in steps if step.kind in _UNTAUGHT]
        return [*edits, *(rounding or [None])]

    @functools.cached_property
    def _train(self) -> Activations:
        ends = [x for region in [self._whole, *self._regions.values()] for x in (*region.inputs, *region.outputs)]
        return self._recorded(self._task.train, self._samples, ends, _RECORDED[0])

    @functools.cached_property
    def _held_out(self) -> Activations:
        read = [x for region in [self._whole, *self._regions.values()] for x in (*region.inputs, *region.outputs)]
        read += [x for tail in self._tails.values() for x in tail.side]
        examples = self._task.held_out.examples
        return self._recorded(examples, len(examples), read, _RECORDED[1])

    def _recorded(self, data, samples: int, tensors, name: str) -> Activations:
        entries = sum(math.prod(n or 1 for n in x.shape[1:]) for x in {id(x): x for x in tensors}.values())
        count = min(samples, max(_STORED // (4 * max(entries, 1)), _FEWEST))
        return Activations(self._graph, data.take(count).inputs, tensors, self._folder.path / name)

    def _distances(self, region: Region) -> list[Distance]:
        """Of each tensor that a region makes."""
        kinds = self._task.aim.kinds if region.whole else ("values",)
        return [distance_of(kind, self._variance(x)) for kind, x in zip(kinds, region.outputs, strict=True)]

    def _variance(self, x: keras.KerasTensor) -> float:
        if id(x) not in self._variances:
            self._variances[id(x)] = float(np.var(self._train.of(x)))
        return self._variances[id(x)]

    def _recalibrate(self, model: keras.Model, region: Region) -> None:
        if batch_norms_of(model):
            inputs = [self._train.of(x)[:_JUDGED] for x in region.inputs]
            recalibrate_batch_norm(model, (self._given(inputs, region),))

    def _given(self, inputs: list, region: Region):
        """Values as the model of a region takes them."""
        return structured(self._graph, inputs) if region.whole else inputs[0]

    def _teach(self, model: keras.Model, region: Region, seed: int) -> None:
        """Trains a model on what the original's region makes; batch norms and dropouts as in inference."""
        variables = model.trainable_variables
        if not variables:
            return
        optimizer = ShortAdam(variables, _RATE, self._steps)
        distances = self._distances(region)

        @tf.function(reduce_retracing=True, autograph=False)
        def step(inputs, wanted):
            with tf.GradientTape() as tape:
                outputs = keras.tree.flatten(model(self._given(inputs, region), training=False))
                loss = tf.reduce_mean(summed(distances, wanted, outputs))
            slopes = tape.gradient(loss, [v.value for v in variables], unconnected_gradients="zero")
            optimizer.apply(slopes)

        rng, count = np.random.default_rng(seed), len(self._train)
        size = min(self._batch, count)
        order = np.concatenate([rng.permutation(count) for _ in range(-(-self._steps * size // count))])
        for number in range(self._steps):
            rows = np.sort(order[number * size : (number + 1) * size])
            inputs, wanted = (
                [tf.convert_to_tensor(self._train.of(x)[rows]) for x in tensors]
                for tensors in (region.inputs, region.outputs)
            )
            step(inputs, wanted)

    def _judged(self, model: keras.Model, region: Region) -> tuple[float, float]:
        """On held-out samples: the distance of the model's outputs, and that of what the region makes."""
        held, tail = self._held_out, self._tails.get(id(region))
        ends, own = self._distances(self._whole), self._distances(region)
        totals = np.zeros(2)
        for part in slices(len(held), _JUDGED):
            found = held.batch([*region.inputs, *region.outputs, *self._whole.outputs], part)
            made = keras.tree.flatten(model(self._given([found[id(x)] for x in region.inputs], region), training=False))
            outputs = made if tail is None else tail(made, held.batch(tail.side, part))
            for i, (distances, tensors, ours) in enumerate(
                ((ends, self._whole.outputs, outputs), (own, region.outputs, made))
            ):
                totals[i] += float(tf.reduce_sum(summed(distances, [found[id(x)] for x in tensors], ours)))
        loss, error = totals / len(held)
        return max(float(loss), 0.0), float(error)


def edited(model: keras.Model, steps: Sequence[Step | None]) -> keras.Model:
    """A model after the edits of some steps, untrained."""
    for step in steps:
        if step is not None:
            model = step.edit(model)
    return model


def _shapes(tensors) -> list[tuple]:
    return [tuple(x.shape[1:]) for x in tensors]
