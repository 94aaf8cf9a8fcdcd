"""A teacher in the training of a plain model: `Distill`."""

import contextlib
import copy
import functools
import itertools
import threading
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from tfstruct.arguments import checked, require_number
from tfstruct.callbacks import Compressor, saved_state
from tfstruct.distill.distillation_report import Compared, DistillationReport
from tfstruct.distill.layer_pairs import ChannelMatcher, Kept, Pair, pairs_of
from tfstruct.distill.losses import Logits
from tfstruct.distill.teacher_cache import TeacherTargets
from tfstruct.errors import ArgumentError, ModelError
from tfstruct.graph.copying import copied
from tfstruct.graph.keras_model import require_model
from tfstruct.graph.layer_tree import intercepted, layer_paths
from tfstruct.keras_internals.replacing import replaced_attributes
from tfstruct.keras_internals.training import loss_knows_training, share_of_replica, whole_loss

_SUM, _STUDENT = "distillation_loss", "student_loss"


@checked
class Distill(Compressor):
    """Lets a model learn from a teacher besides its labels, in `fit` or in a loop of one's own.

        student = surgery.apply(model, plan)
        student.compile("adam", "sparse_categorical_crossentropy")
        student.fit(x, y, callbacks=[Distill(model)])

    While attached, the loss of a training step is

        L = a * L_compiled + (1 - a) * sum of weight * L_distillation + penalties of the layers

    with a = `student_loss_weight`; evaluation is as it was. The model trained is the student itself, not a model around
    it as with `keras.distillation.Distiller`: other compressors attach to it in the same `fit` (with `QuantizeAware`
    the values compared are the quantized ones), its metrics, sample weights and files are what they are, and it is run
    once a step, its inner values noted on the way. Sample weights count in L_compiled only. The teacher runs in
    inference on the same batch; it is neither changed nor saved with the student.

    In a loop: `taught = Distill(teacher).attach(student)` before the step is traced, in it

        outputs = student(inputs, training=True)
        loss = 0.5 * loss_fn(labels, outputs) + 0.5 * taught.loss(inputs, outputs)

    and `taught.step()` behind it, `taught.finish()` at the end.

    In `fit` the logs get `student_loss`, which is L_compiled with the penalties, and `distillation_loss`, which is the
    sum, by epoch.

    Args:
        teacher: a trained model of the same inputs; None: a copy of the student as it is before training, so that
            `fit(callbacks=[Distill(), PruneChannels({"macs": 0.5})])` learns from the unpruned model.
        losses: of this package, of `keras.distillation`, or of one's own by its protocol; None: `Logits()`.
        weights: of the losses; None: 1.
        student_loss_weight: a in [0, 1]; at 0 no labels are needed.
        kept: which of the teacher's channels the student has, in the same order: the `Plan` that it was made by, or
            what `shrink(...).kept` or `initializers.inherit` say. For losses that compare channels, such as `Features`.
        projection_rate: learning rate of the maps that `Features` learns between layers of different width; Adam of
            their own, and gone after training.

    Raises:
        ModelError: when attached: models that share layers, layers that are not there or cannot be compared, outputs
            of unknown kind, or a second Distill on one model.

    Example:
        >>> student = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(2)])
        >>> student.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> history = student.fit(x, y, verbose=0, callbacks=[tfstruct.distill.Distill(model)])
        >>> history.history["loss"][-1] > 0
        True
    """

    _blank: ClassVar[dict[str, object]] = {
        "_pairs": None, "_projections": [], "_optimizer": None, "_means": {}, "_seen": {}, "_used": False,
    }  # fmt: skip

    def __init__(
        self,
        teacher: keras.Model | None = None,
        losses: keras.distillation.DistillationLoss | Sequence[keras.distillation.DistillationLoss] | None = None,
        *,
        weights: Sequence[float] | None = None,
        student_loss_weight: float = 0.5,
        kept: Kept | None = None,
        projection_rate: float = 1e-3,
    ):
        super().__init__()
        if teacher is not None:
            require_model(teacher, "a keras.Model as teacher, or None")
        losses = [Logits()] if losses is None else losses
        losses = list(losses) if isinstance(losses, list | tuple) else [losses]
        weights = [1.0] * len(losses) if weights is None else [float(w) for w in weights]
        for loss in losses:
            _check(loss)
        if not losses or len(weights) != len(losses) or min(weights) < 0:
            raise ArgumentError(f"`weights` must be {len(losses)} numbers, none below 0. Received: {weights}.")
        require_number("student_loss_weight", student_loss_weight, least=0, most=1)
        self.teacher, self._own_teacher = teacher, teacher is None
        self.losses = _by_name([copy.copy(loss) for loss in losses])  # a loss notes what its models put out
        self.weights, self.student_loss_weight = weights, float(student_loss_weight)
        self.kept, self.projection_rate = kept, projection_rate
        self._pairs: list[list[Pair]] | None = None
        self._projections: list[keras.layers.Dense] = []
        self._optimizer: keras.optimizers.Optimizer | None = None
        self._means: dict[str, keras.metrics.Mean] = {}
        self._holding = contextlib.ExitStack()
        self._seen: dict[int, dict[str | None, tf.Tensor]] = {}  # by thread: each replica has its own
        self._used = False
        self._history: list[tuple[int, dict[str, float]]] = []
        self._settings = saved_state.described({
            "losses": list(self.losses), "weights": weights, "student_loss_weight": student_loss_weight,
            "projection_rate": projection_rate,
        })  # fmt: skip

    def loss(self, inputs, outputs, teacher_outputs=None):
        """The sum of weight * L_distillation for a batch, for a training step.

        Args:
            inputs: of the batch, for the teacher.
            outputs: what the student made of them, in training, in this very step.
            teacher_outputs: of the same samples, as `cached` has them; the teacher is not run then.

        Raises:
            ModelError: not attached, or a layer that is looked at was not run in this step.
            ArgumentError: `teacher_outputs` with a loss that looks at inner layers.
        """
        if self._attached is None:
            raise ModelError("This Distill is not attached. Call attach(model) before training.")
        inner = [pair.teacher for pairs in self._compared_layers for pair in pairs if pair.teacher]
        if inner and teacher_outputs is not None:
            raise ArgumentError(f"The teacher's outputs were given, but the losses look at {inner[0]}: leave them out.")
        students: dict[str | None, Any] = {**self._seen.pop(threading.get_ident(), {}), None: outputs}
        if teacher_outputs is None:
            teachers = self._teacher_outputs(inputs)
        else:
            teachers = {None: keras.tree.pack_sequence_as(outputs, keras.tree.flatten(teacher_outputs))}
        self._used = True
        if not self._projections:
            return self._compared(teachers, students)
        with tf.GradientTape() as tape:
            value = self._compared(teachers, students)
        variables = self._learned
        assert self._optimizer is not None  # made with the projections
        self._optimizer.apply_gradients(zip(tape.gradient(value, variables), variables, strict=True))
        return value

    def _teacher_outputs(self, inputs) -> dict:
        """What the teacher makes of a batch, by layer; None: its outputs."""
        assert self.teacher is not None  # given, or copied by `_begin`
        ops = layer_paths(self.teacher)
        seen: dict[str | None, tf.Tensor] = {}
        watched = {pair.teacher: ops[pair.teacher] for pairs in self._compared_layers for pair in pairs if pair.teacher}
        with intercepted(watched, functools.partial(_noting, lambda: seen)):
            seen[None] = self.teacher(inputs, training=False)
        return {path: keras.tree.map_structure(tf.stop_gradient, values) for path, values in seen.items()}

    def _compared(self, teachers: dict, students: dict):
        total = 0.0
        for (name, loss), weight, pairs in zip(self.losses.items(), self.weights, self._compared_layers, strict=True):
            values = []
            for pair in pairs:
                teacher, student = pair(_of(teachers, pair.teacher, name), _of(students, pair.student, name))
                loss.validate_outputs(teacher, student)
                if isinstance(loss, keras.distillation.FeatureDistillation):
                    pair.require_alike(teacher, student)
                values.append(loss.compute_loss(teacher, student))
            value = tf.add_n(values) / len(values)
            if any(isinstance(part, keras.losses.Loss) for part in keras.tree.flatten(getattr(loss, "loss", None))):
                value = whole_loss(value)  # Keras's classes have scaled it already
            self._means[name].update_state(value)
            total += weight * value
        self._means[_SUM].update_state(total)
        return share_of_replica(total)

    # The step of `fit`

    def _step_loss(self, model: keras.Model, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        own = functools.partial(type(model).compute_loss, model, x, _labels(y), y_pred, sample_weight, training)
        if not training:
            return own()
        share = self.student_loss_weight
        value = self.loss(x, y_pred, y.outputs if isinstance(y, TeacherTargets) else None)
        value += tf.add_n([tf.reduce_sum(tf.cast(penalty, value.dtype)) for penalty in model.losses] or [0.0])
        if share == 0:
            return value
        student = own()
        self._means[_STUDENT].update_state(whole_loss(student))
        return share * student + (1 - share) * value  # the penalties are in both

    def _step_metrics(self, model: keras.Model, x, y, y_pred, sample_weight=None):
        return type(model).compute_metrics(model, x, _labels(y), y_pred, sample_weight)

    def set_model(self, model) -> None:
        super().set_model(model)
        if self.teacher is None and model.built:
            # Before any other callback begins: some change weights at once.
            with model.distribute_strategy.scope():
                self.teacher = copied(model)

    def on_epoch_begin(self, epoch, logs=None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._note_means()  # of an epoch at whose end a callback before this one has saved, and the process was killed

    def on_epoch_end(self, epoch, logs=None) -> None:
        found = self._note_means()
        if logs is not None:
            logs.update({name: found[name] for name in (_STUDENT, _SUM) if name in found})

    def _note_means(self) -> dict[str, float]:
        """The means since the last time, which go into the report."""
        found = {name: float(mean.result()) for name, mean in self._means.items() if mean.count.numpy()}
        if found:
            self._history.append((self.steps, found))
        for mean in self._means.values():
            mean.reset_state()
        return found

    # As a compressor

    def _begin(self, model: keras.Model) -> None:
        if "compute_loss" in vars(model):
            raise ModelError(f"`{model.name}` learns from the teacher of another Distill. Call its finish() first.")
        if not loss_knows_training(model):
            raise ModelError(
                f"The `compute_loss` of `{model.name}` does not know training from evaluation. Give it the argument "
                "`training`, as keras.Model's has it."
            )
        if self.teacher is None:
            self.teacher = copied(model)
        ops = layer_paths(model)
        shared = {id(op) for op in layer_paths(self.teacher).values()} & {id(op) for op in ops.values()}
        if shared or self.teacher is model:
            names = [path for path, op in ops.items() if id(op) in shared]
            raise ModelError(
                f"The teacher shares layers with the student `{model.name}`: {', '.join(names[:6])}. It would change "
                "while the student trains. Give a copy, or teacher=None, which makes one."
            )
        if self._pairs is None:
            self._prepare(model)
        watched = {pair.student: ops[pair.student] for pairs in self._compared_layers for pair in pairs if pair.student}
        note = functools.partial(_noting, lambda: self._seen.setdefault(threading.get_ident(), {}))
        self._holding.enter_context(intercepted(watched, note))
        steps = {"compute_loss": self._step_loss, "compute_metrics": self._step_metrics}
        methods = {name: functools.partial(step, model) for name, step in steps.items()}
        self._holding.enter_context(replaced_attributes(model, **methods))

    def _prepare(self, model: keras.Model) -> None:
        """Which layers are compared and how, and the variables for it."""
        for loss in self.losses.values():
            loss.validate_model_compatibility(self.teacher, model)
        compared = [pairs_of(loss, model, self.teacher) for loss in self.losses.values()]
        channels = None
        for loss, pairs in zip(self.losses.values(), compared, strict=True):
            if isinstance(loss, keras.distillation.FeatureDistillation):
                channels = channels or ChannelMatcher(model, self.teacher, self.kept)
                for pair in pairs:
                    channels.match(pair)
        self._pairs = compared
        self._projections = [pair.projection for pairs in compared for pair in pairs if pair.projection]
        if self._projections:
            self._optimizer = keras.optimizers.Adam(self.projection_rate)
            self._optimizer.build(self._learned)
        self._means = {name: keras.metrics.Mean(name) for name in (*self.losses, _SUM, _STUDENT)}

    @property
    def _compared_layers(self) -> list[list[Pair]]:
        """By loss, once `_begin` has settled them."""
        assert self._pairs is not None
        return self._pairs

    @property
    def _learned(self) -> list[keras.Variable]:
        return [v for layer in self._projections for v in layer.trainable_variables]

    def _advance(self, before: int, now: int) -> None:
        if not self._used:
            raise ModelError(
                "The teacher had no part in the training step. In a loop of one's own add loss(inputs, outputs) to the "
                "loss; in `fit` the model's train_step has to call its compute_loss."
            )

    def _end(self, model: keras.Model) -> DistillationReport:
        assert self.teacher is not None  # given, or copied by `_begin`
        self._note_means()
        self._let_go()
        compared = [
            Compared(name, weight, tuple((pair.student, pair.teacher, pair.how) for pair in pairs))
            for name, weight, pairs in zip(self.losses, self.weights, self._compared_layers, strict=True)
        ]
        return DistillationReport(
            model.name, self.teacher.name, self.steps, self.student_loss_weight, tuple(compared), tuple(self._history)
        )

    def _let_go(self) -> None:
        self._holding.close()
        self._seen.clear()

    def __getstate__(self) -> dict:
        state = {**super().__getstate__(), "_holding": None}
        if self._pairs is not None:
            state["_stored"] = {"steps": np.asarray(self.steps), **self._state()}
        return state

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _holding=contextlib.ExitStack())

    def _belongs(self, state: dict[str, np.ndarray]) -> bool:
        if self._own_teacher:
            warnings.warn(
                "The teacher was a copy of the student as it was before training, which the file does not have: from "
                "now on the teacher is the student as it was loaded. Give the model of then: Distill(teacher).",
                stacklevel=4,
            )
        return True

    def _state(self) -> dict[str, np.ndarray]:
        learned = {f"learned_{i}": v.numpy() for i, v in enumerate(self._kept_variables())}
        steps = np.array([step for step, _ in self._history], int)
        noted = np.array([[name in found for name in self._means] for _, found in self._history], bool)
        values = np.array([[found.get(name, 0.0) for name in self._means] for _, found in self._history], float)
        means = np.array([[mean.total.numpy(), mean.count.numpy()] for mean in self._means.values()])
        return {**learned, "history": steps, "noted": noted, "values": values, "means": means}

    def _restore(self, state: dict[str, np.ndarray]) -> None:
        for i, variable in enumerate(self._kept_variables()):
            variable.assign(state[f"learned_{i}"])
        if "history" not in state:
            return
        rows = zip(state["history"].tolist(), state["noted"], state["values"].tolist(), strict=True)
        names = [*self._means]
        self._history = [(step, {names[i]: row[i] for i in np.flatnonzero(there)}) for step, there, row in rows]
        for mean, (total, count) in zip(self._means.values(), state["means"], strict=True):
            mean.total.assign(total)
            mean.count.assign(count)

    def _kept_variables(self) -> list[keras.Variable]:
        return [*self._learned, *(self._optimizer.variables if self._optimizer is not None else ())]


def _check(loss) -> None:
    protocol = ("compute_loss", "validate_model_compatibility", "validate_outputs")
    if not all(callable(getattr(loss, name, None)) for name in protocol) or isinstance(loss, type):
        raise ArgumentError(f"Expected losses such as Logits(). Received: {loss!r}.")
    is_logits = isinstance(loss, keras.distillation.LogitsDistillation)
    if is_logits and keras.losses.kl_divergence in keras.tree.flatten(loss.loss):
        raise ArgumentError(
            "The 'kl_divergence' of LogitsDistillation is, in Keras 3.15, of the logits and not of probabilities. Give "
            f"Logits({loss.temperature}), or loss=keras.losses.KLDivergence()."
        )


def _by_name(losses: Sequence) -> dict[str, keras.distillation.DistillationLoss]:
    """Losses by the name of their class, numbered where there are several."""
    found: dict[str, keras.distillation.DistillationLoss] = {}
    for loss in losses:
        name = type(loss).__name__
        numbered = (f"{name} {i}" for i in itertools.count(2))
        found[name if name not in found else next(n for n in numbered if n not in found)] = loss
    return found


def _noting(seen, path: str, op, call):
    """A route that notes what a layer makes, its last call, and hands it on."""

    def routed(*args, **kwargs):
        outputs = call(*args, **kwargs)
        seen()[path] = outputs
        return outputs

    return routed


def _of(values: dict, path: str | None, loss: str):
    """A layer's values in float32, or the outputs."""
    if path not in values:
        raise ModelError(
            f"{loss} compares {path}, which was not run: call the model on the batch in the same step, before loss()."
        )
    return keras.tree.map_structure(lambda x: tf.cast(x, tf.float32), values[path])


def _labels(y):
    """The labels alone; None where there are none."""
    if not isinstance(y, TeacherTargets):
        return y
    return None if isinstance(y.labels, tuple) and not y.labels else y.labels
