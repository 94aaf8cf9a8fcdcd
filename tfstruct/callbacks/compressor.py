"""The protocol of everything that compresses a model while it trains: attach, step, finish."""

import contextlib
import warnings

import keras
import numpy as np
import tensorflow as tf

from tfstruct.arguments import checked
from tfstruct.callbacks import moving_averages, saved_state
from tfstruct.callbacks.failed_fit import when_fit_fails
from tfstruct.callbacks.finite import diverged
from tfstruct.callbacks.portable import Portable
from tfstruct.callbacks.unprotected import unprotected
from tfstruct.errors import ModelError
from tfstruct.graph.keras_model import require_model
from tfstruct.keras_internals.layer_parts import all_layers
from tfstruct.keras_internals.training import forget_steps, trace_training_again


class Compressor(Portable):
    """A callback of `fit` that works the same by hand.

    In a loop of one's own: `attach(model)` before the training step is traced, `step()` after each step of the
    optimizer, outside of any `tf.function`, and `finish()` at the end. In `fit` these happen by themselves; `finish`
    runs after all other callbacks have ended, so that what they put back into the model is seen. A `fit` that fails or
    is interrupted lets go of the model too, and so does a step that raises; in a loop that was interrupted,
    `tfstruct.callbacks.release(model)` does. The same object, attached again, goes on from there.

    While attached, the state travels in every file that Keras saves of the model, `BackupAndRestore`'s too (not in the
    legacy format of `model.save("model.h5")`). A model that is loaded from such a file is plain, and the next
    compressor of the same kind and settings that is attached to it goes on from there: `load_model`, `compile` if need
    be, and `fit` with a new one. Where there is no such state (the file was saved after `fit`, or loaded before
    `tfstruct.callbacks` was imported), zeros and shared values that training would undo are warned of.

    Moving averages of the weights in the optimizer (`use_ema`) are held to what the weights are held to.

    A subclass has the methods `_begin`, `_advance`, `_end`, `_let_go`, `_state`, `_restore` and `_belongs`, and says
    its `_settings`.

    Attributes:
        report: what `finish` returned last; None before.
        steps: optimizer steps seen so far, over all `fit`s.

    Example:
        >>> prune = tfstruct.callbacks.Prune(0.5).attach(model)
        >>> prune.step()
        >>> report = prune.finish()
        >>> isinstance(prune, tfstruct.callbacks.Compressor), prune.steps, prune.report is report
        (True, 1, True)
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
        self._settings: dict[str, str] = {}  # what a state has to agree with, see `saved_state.described`

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
        if _calls_nothing(model):
            raise ModelError(
                f"`{model.name}` has no `call` of its own, so that there is nothing to follow: attach this {name} to "
                f"the part that shall be compressed, {_parts(model)}, and give it to `fit` as well: "
                f"{name.lower()} = {name}(...); {name.lower()}.attach(part); model.fit(x, callbacks=[{name.lower()}])."
            )
        if not model.built or not model.weights:
            raise ModelError(f"`{model.name}` is not built yet: call it on a batch, or give it an Input, first.")
        with _scope(model):
            try:
                if not self._resumes(model):
                    self._begin(model)
                    if self._stored is not None:
                        self._take_up(self._stored)
            except BaseException:
                self._let_go()
                raise
            moving_averages.settle(model)
        self._attached = self._home = model
        saved_state.hold(model, self)
        forget_steps(model)
        if all(other._attached is not None for other in saved_state.held(model)):
            self._warn_of_losses(model)
        return self

    def _resumes(self, model: keras.Model) -> bool:
        """Goes on with the state that came with the model's file; False if there is none, or another training's."""
        name = type(self).__name__
        found = saved_state.take(model, name)
        if found is None:
            return False
        others = saved_state.differences(found, self._settings)
        why = f"that {name} had {'; '.join(others)}" if others else None
        before = dict(vars(self))
        if why is None:
            self._stored = found
            self._begin(model)
            try:
                if self._belongs(_own(found)):
                    self._take_up(found)
                    return True
                why = "the weights have changed since"
            except (KeyError, ValueError, TypeError, IndexError) as error:
                why = str(error)
            self._let_go()
            self.__dict__.clear()
            self.__dict__.update(before)
        warnings.warn(
            f"The file of `{model.name}` was saved while a {name} trained it, whose state is not taken up: {why}. "
            f"This {name} begins {'anew' if self._stored is None else 'where it was'}; with the settings and weights "
            "of then it would go on from there.",
            stacklevel=3,
        )
        return False

    def _warn_of_losses(self, model: keras.Model) -> None:
        """Says what training would undo, as nothing that is attached holds it."""
        lost = unprotected(model)
        if lost:
            warnings.warn(lost, stacklevel=3)

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
            try:
                self._advance(before, self.steps)
            except BaseException:
                self.abandon()
                raise
            moving_averages.settle(self._attached)

    def observe(self, logs: dict) -> None:
        """Hears the figures of a validation, such as {"loss": 0.3}. In `fit` that happens by itself."""

    def finish(self):
        """Lets go of the model, which is plain Keras again. Returns the report."""
        if self._attached is None:
            raise ModelError(
                f"This {type(self).__name__} is not attached: nothing to finish. After a `fit` that failed, "
                "attach(model).finish() gives the report."
            )
        model = self._attached
        with _scope(model):
            try:
                self.report = self._end(model)
            except BaseException:
                self.abandon()
                raise
            moving_averages.settle(model)
            if why := diverged(model):
                warnings.warn(f"{why} What {type(self).__name__} found means nothing.", stacklevel=2)
        self._detach()
        return self.report

    def abandon(self) -> None:
        """Lets go of the model as it is, without a report. Attached again, this goes on from here."""
        if self._attached is not None:
            self._open = None  # a batch that was not ended does not count
            with _scope(self._attached):
                try:
                    self._stored = self._saved_state()
                finally:
                    self._let_go()
                    self._detach()

    def _detach(self) -> None:
        model, self._attached = self._attached, None
        saved_state.release(model, self)
        forget_steps(model)

    # In `fit`

    def set_model(self, model) -> None:
        require_model(model)
        super().set_model(model)
        self._begun = False
        if self._attached is None:
            saved_state.hold(model, self)  # a callback that restores the model may run before this one attaches
            when_fit_fails(model, lambda: saved_state.release(model, self))
        when_fit_fails(model, lambda: self._abandon_within(model))

    def on_train_begin(self, logs=None) -> None:
        if self._begun:
            self.finish()
            raise ModelError(f"This {type(self).__name__} is in the list of callbacks twice.")
        self._begun = True
        if self._attached is None:
            try:
                self.attach(self.model)
            except BaseException:
                saved_state.release(self.model, self)
                raise
            trace_training_again(self.model)
        elif not self._is_within(self.model):
            raise ModelError(f"This {type(self).__name__} is attached to `{self._attached.name}`, not to this model.")
        self._after_all_others(self.model.history)

    def _is_within(self, model: keras.Model) -> bool:
        """Whether it is attached to the model, or to a part of it."""
        return any(part is self._attached for part in all_layers(model))

    def _abandon_within(self, model: keras.Model) -> None:
        if self._is_within(model):
            self.abandon()

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
        if self._open is not None and self._attached is not None:
            self.on_train_batch_end(self._open + self._attached.steps_per_execution - 1)

    def on_test_end(self, logs=None) -> None:
        if self._attached is not None and logs:
            self.observe(logs)

    # For subclasses

    def _begin(self, model: keras.Model) -> None:
        """Checks the model and takes hold of it."""
        raise NotImplementedError

    def _advance(self, before: int, now: int) -> None:
        """Called after optimizer step `now`; the previous call covered steps up to `before`."""
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

    def _belongs(self, state: dict[str, np.ndarray]) -> bool:
        """Whether the weights, as they are after `_begin`, can be those that `_state` gave this for."""
        return True

    # State in Keras's files

    def _saved_state(self) -> dict[str, np.ndarray]:
        if self._attached is None:
            return {}
        self._catch_up()
        head = saved_state.head(type(self).__name__, self._settings)
        return {**head, "steps": np.asarray(self.steps), **self._state()}

    def _given(self, stored: dict[str, np.ndarray]) -> None:
        if self._attached is None:
            self._stored = stored
        else:
            self._take_up(stored)

    def __getstate__(self) -> dict:
        stored = self._stored if self._attached is None else self._saved_state()
        return {**super().__getstate__(), "_attached": None, "_home": None, "_stored": stored}

    def _take_up(self, stored: dict[str, np.ndarray]) -> None:
        self._stored = None
        self.steps = int(stored["steps"])
        self._restore(_own(stored))


@checked
def release(model: keras.Model) -> list[Compressor]:
    """Takes everything off a model that compressors have put on it, and off the models inside of it.

    For loops of one's own that were interrupted between `attach` and `finish`; `fit` does it by itself. The weights
    stay as they are. What came with the model's file for a compressor is forgotten: the next one begins anew.

        tfstruct.callbacks.release(model)

    Args:
        model: built; models inside of it are released too.

    Returns:
        The compressors that were attached. Attached again, each goes on from where it was.

    Raises:
        ModelError: this is no Keras model.

    Example:
        >>> pruner = tfstruct.callbacks.Prune(0.5).attach(model)
        >>> tfstruct.callbacks.release(model) == [pruner]
        True
    """
    require_model(model)
    released = []
    for part in all_layers(model):
        if not isinstance(part, keras.Model):
            continue
        saved_state.forget(part)
        for compressor in reversed(saved_state.held(part)):
            if compressor._attached is not None:
                released.append(compressor)
            compressor.abandon()
            saved_state.release(part, compressor)
    forget_steps(model)
    return released[::-1]


def _calls_nothing(model: keras.Model) -> bool:
    """Whether it is there for its parts alone, such as the two networks of a GAN with a `train_step`."""
    return type(model).call in (keras.Model.call, keras.layers.Layer.call)


def _parts(model: keras.Model) -> str:
    names = [f"`{part.name}`" for part in all_layers(model, itself=False, deep=False)]
    return " or ".join(names) if names else "a model inside of it"


def _own(stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of a state, what the compressor's `_state` gave."""
    return {name: value for name, value in saved_state.body(stored).items() if name != "steps"}


def _scope(model: keras.Model):
    """Where variables for this model have to be made."""
    strategy = getattr(model, "distribute_strategy", None)
    return contextlib.nullcontext() if strategy is None else strategy.scope()
