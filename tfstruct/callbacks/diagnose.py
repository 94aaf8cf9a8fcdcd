"""A run watched: what goes wrong in it, where, and what to try."""

import math
import time
import warnings
from collections.abc import Callable
from typing import ClassVar

import keras
import numpy as np
import tensorflow as tf

from tfstruct.arguments import checked, require_count
from tfstruct.callbacks import symptoms
from tfstruct.callbacks.baselines import constant_answer, lagging_statistics, settling_steps
from tfstruct.callbacks.diagnosis import Diagnosis
from tfstruct.callbacks.failed_fit import when_fit_fails
from tfstruct.callbacks.finite import all_finite
from tfstruct.callbacks.first_batch import FirstBatch, evenly, first_samples
from tfstruct.callbacks.portable import Portable
from tfstruct.callbacks.probe import Figures, Probe
from tfstruct.callbacks.root_causes import findings
from tfstruct.errors import DataError, ModelError
from tfstruct.graph.keras_model import require_model

_SHARE = 0.02  # of the training time, for probes
_EARLY = 10  # the second probe: the first to tell what one costs, as the very first is traced
_READ_EACH, _READ_OFTEN = 50, 10
_MOST = 1000  # entries kept of a long run


@checked
class Diagnose(Portable):
    """Watches a run and says what is wrong: the symptom, the layer, figures, and what to try.

    Named are: NaN or infinity with the first layer that made it; vanishing and exploding gradients; dead and saturated
    units; a learning rate that is too high (the loss rises or oscillates) or too low (ten times the way would bring ten
    times the gain); overfitting; a plateau that none of these explains. The limits are in `callbacks.symptoms`.

    How: a probe runs a kept batch forward and backward, at the beginning, after ten steps, then as often as 2 % of
    the training time pays for, and at the end. It changes nothing: neither weights nor batch norm's statistics, seeds,
    metrics or optimizer. The loss of training is read from Keras's own running mean. Two copies of the trainable
    weights are held, those of the beginning and those of the last probe. The first probe costs the tracing of one more
    training step.

        diagnose = callbacks.Diagnose(data=(x[:256], y[:256]))
        model.fit(x, y, validation_data=..., callbacks=[diagnose])
        print(diagnose.report)

    In a loop of one's own: `attach(model)`, `step(loss)` after each step, `epoch(...)` if there is a validation loss,
    `finish()`.

    Args:
        data: samples with labels, see `tfstruct.samples`; of it, `samples` are kept. By default, `"fit"`, the first
            batch that `fit` trains on (not possible in a loop or with several replicas, where without data only losses
            are watched).
        frequency: steps from probe to probe; None for 2 % of the time.
        samples: how many samples a probe looks at: of arrays evenly taken, of anything else the first ones.
        loss: (y, outputs) -> loss; by default what the model is compiled with.
        verbose: 0 is silent, 1 prints a finding when it is first seen, 2 prints the report at the end too.

    Attributes:
        report: a `Diagnosis`, up to date after each epoch; None before training.

    Raises:
        ArgumentError: a setting out of range.
        DataError: data without labels, or of unequal lengths.

    Example:
        >>> watch = tfstruct.callbacks.Diagnose(verbose=0)
        >>> history = model.fit(x, y, epochs=2, verbose=0, callbacks=[watch])
        >>> [finding for finding in watch.report.findings if "NaN" in finding.symptom]
        []
    """

    _blank: ClassVar[dict[str, object]] = {
        "_probe": None, "_first_batch": None, "_tracker": None, "_pending": [], "_first": None, "_last": None,
    }  # fmt: skip

    def __init__(
        self,
        data="fit",
        *,
        frequency: int | None = None,
        samples: int = 32,
        loss: Callable | None = None,
        verbose: int = 1,
    ):
        super().__init__()
        for name, value in (("frequency", frequency), ("samples", samples)):
            if value is not None:
                require_count(name, value)
        require_count("verbose", verbose, least=0, most=2)
        self.frequency, self.samples, self.verbose = frequency, samples, verbose
        self.loss = keras.losses.get(loss) if isinstance(loss, str) else loss
        self.report: Diagnosis | None = None
        if data is None:
            raise DataError("Diagnose needs data=(x, y), or none given: the first batch of `fit`. Received: None.")
        from_fit = isinstance(data, str) and data == "fit"
        self._data = None if from_fit else evenly(data, samples) if isinstance(data, tuple) else data
        if hasattr(data, "shape"):
            raise DataError(f"Diagnose needs labels. Give data=(x, y). Received: {type(data).__name__}.")
        self._is_read = False
        self._steps = 0
        self._probe: Probe | None = None
        self._first_batch: FirstBatch | None = None

    # In fit. `on_train_batch_end` is left alone: a callback that has it makes Keras wait for each step's logs.

    def set_model(self, model) -> None:
        require_model(model)
        super().set_model(model)

    def on_train_begin(self, logs=None):
        # A model that fit has not built has no weights to look at yet.
        self._begin(self.model, planned=self._planned())
        if self._data is not None:
            self._look(0)
        elif self.model.distribute_strategy.num_replicas_in_sync > 1:
            self._notes.append("layers: give data=(x, y), as several replicas share the batches")
        else:
            self._first_batch = FirstBatch(self.model, self._receive)
            when_fit_fails(self.model, self._first_batch.take_out)

    def on_epoch_begin(self, epoch, logs=None):
        self._offset, self._batch = self._steps, None
        self._closed, self._sums = False, (0.0, 0.0)

    def on_train_batch_begin(self, batch, logs=None):
        self._batch = batch
        self._steps = self._offset + batch
        self._tick()

    def on_test_begin(self, logs=None):
        self._close()  # evaluate sets the running mean back

    def on_epoch_end(self, epoch, logs=None):
        self._close()
        logs = logs or {}
        self.epoch(logs.get("loss", math.nan), logs.get("val_loss"))

    def on_train_end(self, logs=None):
        if self._first_batch is not None:
            self._first_batch.take_out()
        self.finish()

    # In a loop of one's own.

    def attach(self, model: keras.Model, steps: int | None = None) -> None:
        """Begins to watch a model that is built; before the first step.

        Args:
            steps: how many are planned, if that is known: half of them are enough to call a learning rate too low.

        Raises:
            ModelError: the model is not built.
        """
        if not model.built:
            raise ModelError(f"`{model.name}` has no weights yet. Call it on a batch, or model.build(shape), first.")
        self.set_model(model)
        self._begin(model, steps)
        self._loop = True
        if self._data is None:
            self._notes.append("layers: give data=(x, y), as a loop shows no batches")
        else:
            self._look(0)

    def step(self, loss) -> None:
        """After each step.

        Args:
            loss: of the step, a scalar; a tensor is not waited for.
        """
        self._pending.append(loss)
        self._steps += 1
        self._tick()

    def epoch(self, loss: float | None = None, val_loss: float | None = None) -> None:
        """At the end of an epoch: mean losses over it. The training loss is by default that of the steps."""
        if self._loop:
            self._read()
            begun = self._record.epochs[-1][0] if self._record.epochs else 0
            seen = [one for step, one in self._record.losses if step > begun]
            loss = float(np.mean(seen)) if loss is None and seen else loss
        loss = math.nan if loss is None else float(loss)
        self._record.epochs.append((self._steps, loss, None if val_loss is None else float(val_loss)))
        if not math.isfinite(loss):
            self._break()
        self._judge()

    def finish(self) -> Diagnosis:
        """The last probe, and the report."""
        self._read()
        if self._record.breakdown is None and self._record.probes and self._record.probes[-1].step < self._steps:
            self._look(self._steps)
        self._go_farther()
        report = self._judge()
        if self.verbose == 2:
            print(report)
        return report

    # What both share.

    def _begin(self, model, planned: int | None) -> None:
        self._record = symptoms.Record(settled=settling_steps(model))
        self._notes: list[str] = []
        self._printed: set[tuple[str, str | None]] = set()
        self._steps, self._offset, self._batch, self._closed = 0, 0, None, True
        self._sums, self._loop, self._planned_steps = (0.0, 0.0), False, planned
        self._pending: list[tf.Tensor] = []
        self._first: list[tf.Tensor] | None = None
        self._last: list[tf.Tensor] | None = None
        self._next, self._tried_farther = 0, False
        self._cost, self._pause = math.inf, (time.perf_counter(), 0)
        self._tracker = None if not model.compiled else next(
            (m for m in model.metrics if m.name == "loss" and hasattr(m, "total") and hasattr(m, "count")), None
        )  # fmt: skip
        if self._data is not None and not self._is_read:
            self._data, self._is_read = first_samples(model, self._data, self.samples), True
        self._set_probe(self._data)
        self._judge()

    def _planned(self) -> int | None:
        epochs, steps = (self.params or {}).get("epochs"), (self.params or {}).get("steps")
        return epochs * steps if epochs and steps else None

    def _receive(self, batch) -> None:
        """The first batch of fit, before it is trained on."""
        self._set_probe(evenly(batch, self.samples))
        self._look(0)

    def _set_probe(self, batch) -> None:
        if batch is None:
            self._probe = None
            return
        weights = [id(v) for v in self.model.trainable_variables]
        old = self._probe
        if old is None or old.model is not self.model or old.batch is not batch or old.ids != weights:
            self._probe = Probe(self.model, batch, self.loss)
        loss = self.loss if self.loss is not None else getattr(self.model, "loss", None)
        self._record.guess, self._record.spread = constant_answer(loss, batch[1])

    def _tick(self) -> None:
        if self._record.breakdown is not None:
            return
        if self._steps <= _READ_EACH or self._steps % _READ_OFTEN == 0:
            self._read()
        planned = self._planned_steps
        half = bool(planned and self._steps >= planned / 2 and not self._tried_farther)
        if self._probe is not None and self._record.probes and (half or self._steps >= self._next):
            self._read()
            self._look(self._steps)
            if half:
                self._tried_farther = True
                self._go_farther()
            self._judge()

    def _look(self, step: int) -> None:
        if self._probe is None or self._record.breakdown is not None:
            return
        now = time.perf_counter()
        pace = (now - self._pause[0]) / max(step - self._pause[1], 1)
        weights = self._probe.weights()
        try:
            figures = self._probe(step, weights, self._rate())
        except Exception as error:  # what cannot be probed can still be trained
            self._probe = None
            self._notes.append(f"layers: the probe failed with {type(error).__name__}: {error}".splitlines()[0])
            warnings.warn(f"Diagnose goes on without a probe. {self._notes[-1]}", stacklevel=2)
            return
        self._record.probes.append(figures)
        # A ReLU may turn NaN into 0: the loss alone does not tell. (Infinity alone may be a mask.)
        if not math.isfinite(figures.loss) or figures.undefined or not all_finite(weights):
            self._break(figures if all_finite(weights) else None)
        else:
            self._first = weights if self._first is None else self._first
            self._last = weights
        self._thin()
        self._pause = (time.perf_counter(), step)
        if len(self._record.probes) > 1:  # the first one holds the tracing
            self._cost = min(self._cost, self._pause[0] - now)
        if self.frequency is not None:
            self._next = step + self.frequency
        else:
            paid = 1 if not math.isfinite(self._cost) else math.ceil(self._cost / (_SHARE * max(pace, 1e-6)))
            self._next = step + max(paid, _EARLY)

    def _close(self) -> None:
        """The end of an epoch, before anything sets the running mean back."""
        if self._closed or self._batch is None:
            return
        self._steps = self._offset + self._batch + self.model.steps_per_execution
        self._read()
        self._closed = True

    def _read(self) -> None:
        """The mean training loss since the last reading."""
        losses = self._record.losses
        if losses and losses[-1][0] == self._steps:
            return
        if self._loop:
            if not self._pending:
                return
            mean = float(np.mean([np.asarray(one, "float64") for one in self._pending]))
            self._pending = []
        else:
            if self._tracker is None or self._closed:
                return
            total, count = (float(keras.ops.convert_to_numpy(v)) for v in (self._tracker.total, self._tracker.count))
            if count <= self._sums[1]:
                return
            mean = (total - self._sums[0]) / (count - self._sums[1])
            self._sums = (total, count)
        losses.append((self._steps, mean))
        if not math.isfinite(mean):
            self._break()

    def _break(self, figures: Figures | None = None) -> None:
        """Looks for the first layer whose output is not finite: at the weights of now, or the last finite ones."""
        record = self._record
        if record.breakdown is not None:
            return
        fine = [step for step, loss in record.losses if math.isfinite(loss)]
        fine += [f.step for f in record.probes if math.isfinite(f.loss)]
        after, where, layer = max(fine, default=None), "unknown", None
        if self._probe is not None:
            finite = all_finite(self._probe.weights())
            if figures is None and (finite or self._last is not None):
                figures = self._probe(self._steps, None if finite else self._last)
            data = keras.tree.flatten(self._probe.batch)
            if not all(np.isfinite(one).all() for one in data if np.issubdtype(one.dtype, np.floating)):
                where = "data"
            elif figures is not None and (figures.undefined or not math.isfinite(figures.loss)) and figures.broken:
                broken = figures.undefined if math.isfinite(figures.loss) else figures.broken
                where, layer = "forward", broken[0]
            elif figures is not None and not math.isfinite(figures.loss):
                where = "loss"
            elif figures is not None and figures.broken_gradients:
                where, layer = "gradient", figures.broken_gradients[0]
            elif not finite:
                where = "weights"
        record.breakdown = symptoms.Breakdown(self._steps, where, layer, after)
        self._judge()

    def _go_farther(self) -> None:
        """The loss of the kept batch ten times as far from the first weights as the last ones are."""
        record = self._record
        if self._probe is None or self._first is None or self._last is None or record.breakdown is not None:
            return
        if record.probes[-1].step < _READ_EACH:
            return  # the first steps are straight in any run
        rates = [f.learning_rate for f in record.probes if f.learning_rate is not None]
        if rates and rates[-1] > 1.5 * np.mean(rates):
            return  # still warming up
        ends = zip(self._first, self._last, strict=True)
        far = self._probe(self._steps, [a + tf.cast(symptoms.FARTHER, a.dtype) * (b - a) for a, b in ends])
        last = record.probes[-1]
        record.farther.append((last.step, last.loss, far.loss))

    def _rate(self) -> float | None:
        optimizer = getattr(self.model, "optimizer", None)
        rate = getattr(getattr(optimizer, "inner_optimizer", optimizer), "learning_rate", None)
        return None if rate is None else float(keras.ops.convert_to_numpy(rate))

    def _thin(self) -> None:
        """Of a long run, every second entry goes, but neither the first nor the last ones."""
        record = self._record
        if len(record.probes) > _MOST:
            record.probes[1:-4] = record.probes[1:-4:2]
        if len(record.losses) > 2 * _MOST:
            pairs = zip(record.losses[::2], record.losses[1::2], strict=False)
            record.losses[: len(record.losses) // 2 * 2] = [(b[0], (a[1] + b[1]) / 2) for a, b in pairs]

    def _judge(self) -> Diagnosis:
        record = self._record
        found = findings(record)
        for one in found:
            if self.verbose and (one.symptom, one.layer) not in self._printed:
                self._printed.add((one.symptom, one.layer))
                print(f"\n{one}")
        self.report = report = Diagnosis(
            model=self.model.name,
            steps=self._steps,
            findings=tuple(found),
            probes=tuple(record.probes),
            losses=tuple(record.losses),
            epochs=tuple(record.epochs),
            notes=tuple(self._notes),
            lagging=tuple(lagging_statistics(self.model, self._steps, "training began")),
        )
        return report
