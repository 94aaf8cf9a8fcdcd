"""The protocol of everything that compresses a model while it trains: attach, step, finish."""

import contextlib
import functools
import itertools

import keras
import numpy as np
import tensorflow as tf
from keras.src.saving.keras_saveable import KerasSaveable

from tfstruct.errors import ModelError
from tfstruct.graph.keras_model import require_model


class Compressor(keras.callbacks.Callback):
    """A callback of `fit` that works the same by hand.

    In a loop of one's own: `attach(model)` before the training step is traced, `step()` after each step of the
    optimizer, outside of any `tf.function`, and `finish()` at the end. In `fit` these happen by themselves; `finish`
    runs after all other callbacks have ended, so that what they put back into the model is seen.

    While attached, the state travels in every file that Keras saves of the model, `BackupAndRestore`'s too; a plain
    model loads such a file and leaves the state aside.

    A subclass has the methods `_begin`, `_advance`, `_end`, `_let_go`, `_state` and `_restore`.

    Attributes:
        report: what `finish` returned last; None before.
        steps: optimizer steps seen so far, over all `fit`s.
    """

    def __init__(self):
        super().__init__()
        self.report = None
        self.steps = 0
        self._attached: keras.Model | None = None
        self._home: keras.Model | None = None
        self._stored: dict[str, np.ndarray] | None = None
        self._batch, self._open = -1, None
        self._begun = False

    # By hand

    def attach(self, model: keras.Model) -> "Compressor":
        """Takes hold of the model. Returns itself.

        Raises:
            ModelError: the model is not built, this compressor is attached already or belongs to another model, or
                another one has hold of the same weights.
        """
        name = type(self).__name__
        if self._attached is not None:
            raise ModelError(f"This {name} is attached to `{self._attached.name}` already. Call finish() first.")
        if self._home is not None and self._home is not model:
            raise ModelError(
                f"This {name} belongs to `{self._home.name}`, whose state it keeps. Make a new one for `{model.name}`."
            )
        require_model(model)
        if not model.built or not model.weights:
            raise ModelError(f"`{model.name}` is not built yet: call it on a batch, or give it an Input, first.")
        with _scope(model):
            try:
                self._begin(model)
                if self._stored is not None:
                    self._take_up(self._stored)
            except Exception:
                self._let_go()
                raise
        self._attached = self._home = model
        self._hold(model)
        _forget_traces(model)
        return self

    def step(self, count: int = 1) -> None:
        """Says that the optimizer has made `count` steps."""
        if self._attached is None:
            raise ModelError(f"This {type(self).__name__} is not attached. Call attach(model) before training.")
        if tf.inside_function():
            raise RuntimeError(
                f"{type(self).__name__}.step() was called while a tf.function is traced, so it would run once only. "
                "Call it outside, after the training step."
            )
        before = self.steps
        self.steps += count
        with _scope(self._attached):
            self._advance(before, self.steps)

    def observe(self, logs: dict) -> None:
        """Hears the figures of a validation, such as {"loss": 0.3}. In `fit` that happens by itself."""

    def finish(self):
        """Lets go of the model, which is plain Keras again. Returns the report."""
        if self._attached is None:
            raise ModelError(f"This {type(self).__name__} is not attached: nothing to finish.")
        model = self._attached
        with _scope(model):
            self.report = self._end(model)
        self._attached = None
        self._release(model)
        _forget_traces(model)
        return self.report

    # In `fit`

    def set_model(self, model) -> None:
        require_model(model)
        super().set_model(model)
        self._begun = False
        if self._attached is None:
            self._hold(model)  # a callback that restores the model may run before this one attaches

    def on_train_begin(self, logs=None) -> None:
        if self._begun:
            self.finish()
            raise ModelError(f"This {type(self).__name__} is in the list of callbacks twice.")
        self._begun = True
        if self._attached is None:
            try:
                self.attach(self.model)
            except Exception:
                self._release(self.model)
                raise
            self.model.make_train_function(force=True)
        elif self._attached is not self.model:
            raise ModelError(f"This {type(self).__name__} is attached to `{self._attached.name}`, not to this model.")
        self._after_all_others(self.model.history)

    def _after_all_others(self, history) -> None:
        # Keras puts its History behind the user's callbacks. EarlyStopping puts the best weights back when training
        # ends, wherever it stands in the list.
        ended = history.on_train_end

        def on_train_end(logs=None):
            for name in ("on_train_end", "on_epoch_end"):
                history.__dict__.pop(name, None)
            ended(logs)
            if self._attached is not None:
                self.finish()

        history.on_train_end = on_train_end

    def on_epoch_begin(self, epoch, logs=None) -> None:
        self._batch, self._open = -1, None

    def on_train_batch_begin(self, batch, logs=None) -> None:
        self._open = batch

    def on_train_batch_end(self, batch, logs=None) -> None:
        self._open = None
        # With steps_per_execution there are several at once; Keras counts the last ones of an epoch as if all were.
        batch = min(batch, (self.params.get("steps") or batch + 1) - 1)
        if batch > self._batch:
            self.step(batch - self._batch)
            self._batch = batch
        self._log(logs)

    def _catch_up(self) -> None:
        # A callback before this one saves after a batch: the optimizer has made a step that was not counted yet.
        if self._open is not None:
            self.on_train_batch_end(self._open + self._attached.steps_per_execution - 1)

    def on_test_end(self, logs=None) -> None:
        if self._attached is not None and logs:
            self.observe(logs)

    # For subclasses

    def _begin(self, model: keras.Model) -> None:
        """Checks the model and takes hold of it."""
        raise NotImplementedError

    def _advance(self, before: int, now: int) -> None:
        """Does what is due after the step `now`; the last call was for `before`."""
        raise NotImplementedError

    def _end(self, model: keras.Model):
        """Leaves the model plain; returns the report."""
        raise NotImplementedError

    def _let_go(self) -> None:
        """Takes back what a `_begin` that failed has put on the model."""

    def _log(self, logs: dict | None) -> None:
        """Adds figures to the logs of a batch."""

    def _state(self) -> dict[str, np.ndarray]:
        """What training needs to go on elsewhere, besides the weights."""
        return {}

    def _restore(self, state: dict[str, np.ndarray]) -> None:
        """Takes up what `_state` gave; after `_begin`, which may look whether `_stored` waits for this."""

    # State in Keras's files

    def _hold(self, model: keras.Model) -> None:
        held = {name: value.compressor for name, value in vars(model).items() if isinstance(value, _State)}
        if self not in held.values():
            free = next(name for i in itertools.count() if (name := f"compressor_state_{i}") not in held)
            # Not through Keras's own tracking, which would make it a part of the model.
            object.__setattr__(model, free, _State(self))

    def _release(self, model: keras.Model) -> None:
        for name, value in list(vars(model).items()):
            if isinstance(value, _State) and value.compressor is self:
                object.__delattr__(model, name)

    def _given(self, stored: dict[str, np.ndarray]) -> None:
        if self._attached is None:
            self._stored = stored
        else:
            self._take_up(stored)

    def _take_up(self, stored: dict[str, np.ndarray]) -> None:
        self._stored = None
        self.steps = int(stored["steps"])
        self._restore({name: value for name, value in stored.items() if name not in ("steps", "kind")})


class _State(KerasSaveable):
    """A compressor's state, where Keras finds it when it saves or loads the weights of a model."""

    def __init__(self, compressor: Compressor):
        self.compressor = compressor

    def _obj_type(self):
        return "Loss"  # the plainest kind that Keras's files know

    @functools.cached_property
    def name(self) -> str:
        return type(self.compressor).__name__

    def save_own_variables(self, store) -> None:
        if self.compressor._attached is None:
            return
        self.compressor._catch_up()
        store["kind"] = np.frombuffer(self.name.encode(), np.uint8)
        store["steps"] = np.asarray(self.compressor.steps)
        for name, value in self.compressor._state().items():
            store[name] = value

    def load_own_variables(self, store) -> None:
        stored = {name: np.asarray(store[name]) for name in store.keys()}  # noqa: SIM118 - an h5 store is no mapping
        if not stored:
            return  # a file of the plain model
        kind = stored["kind"].tobytes().decode()
        if kind != self.name:
            raise ModelError(
                f"The file has the state of a {kind} where this training has a {self.name}. "
                "Give the callbacks in the same order as when it was written."
            )
        self.compressor._given(stored)


def _forget_traces(model: keras.Model) -> None:
    """What Keras traced before does not know what has been attached or taken off since."""
    model.train_function = model.test_function = model.predict_function = None


def _scope(model: keras.Model):
    """Where variables for this model have to be made."""
    strategy = getattr(model, "distribute_strategy", None)
    return contextlib.nullcontext() if strategy is None else strategy.scope()
