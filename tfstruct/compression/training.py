"""Training that goes on where it was killed: the state is on disk after every epoch."""

import json
import pathlib
import re
from collections.abc import Callable, Sequence

import keras
import numpy as np

from tfstruct.augment import Pipeline
from tfstruct.compression.dataset import Examples, Stream
from tfstruct.compression.objective import Objective
from tfstruct.errors import ArgumentError, RecipeError, one_line
from tfstruct.files import write_atomic
from tfstruct.untrusted import hdf5, json_text

_STATE = "training.json"
_WEIGHTS = re.compile(r"epoch-\d{4,}\.weights\.h5")


def fit(
    model: keras.Model,
    data: Examples | Stream,
    *,
    aim: Objective,
    epochs: int,
    batch_size: int,
    rate: "float | keras.optimizers.schedules.LearningRateSchedule",
    seed: int,
    folder: pathlib.Path,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    augment: Pipeline | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> list[dict[str, float]]:
    """Trains a model in place, with Adam; returns the logs, one dict an epoch.

    Args:
        model: its compilation is replaced.
        aim: what for.
        folder: of this training alone; what an earlier call left there is taken up.
        augment: of the batches; what it draws depends on the epoch and the place of a batch alone.
        on_step: called after every step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = _EpochState(folder)
    first = len(state.history)
    keras.utils.set_random_seed(seed)
    optimizer = keras.optimizers.Adam(rate)
    model.compile(optimizer, loss=aim.loss, loss_weights=aim.weights, metrics=aim.metrics)
    optimizer.build(model.trainable_variables)
    steps = data.steps(batch_size)
    stream = data.batches(range(first, max(epochs, first + 1)), batch_size, seed)
    if augment is not None:
        stream = augment.numbered(stream, steps, first)
    # After the last epoch too: the weights and what the callbacks know come back when training begins.
    model.fit(
        stream,
        epochs=epochs,
        initial_epoch=first,
        steps_per_epoch=steps,
        shuffle=False,
        verbose=0,
        callbacks=[*callbacks, state, _Seeds(seed), _Steps(on_step)],
    )
    return state.history


class _Steps(keras.callbacks.Callback):
    def __init__(self, on_step: Callable[[], None]):
        super().__init__()
        self._on_step = on_step

    def on_train_batch_end(self, batch, logs=None) -> None:
        self._on_step()


class _Seeds(keras.callbacks.Callback):
    """What layers draw in an epoch depends on `seed` and the epoch alone: Keras's files leave the state out."""

    def __init__(self, seed: int):
        super().__init__()
        self._seed = seed

    def on_epoch_begin(self, epoch, logs=None) -> None:
        states = [v for v in self.model.variables if v.name == "seed_generator_state"]
        rng = np.random.default_rng([self._seed, epoch])
        for state in states:
            state.assign(rng.integers(0, 2**31, state.shape))


def _epochs(stored: dict) -> tuple[str, list[dict[str, float]]]:
    """The weights' file, which is one of the folder's own, and the logs of the epochs."""
    if not _WEIGHTS.fullmatch(stored["weights"]):
        raise ArgumentError(f"weights in {stored['weights']!r}")
    return stored["weights"], [{str(key): float(value) for key, value in logs.items()} for logs in stored["history"]]


class _EpochState(keras.callbacks.Callback):
    """Weights, optimizer and compressors after every epoch. The list of epochs is written last and names the weights
    it belongs to: whenever the process is killed, one of the two states is whole."""

    def __init__(self, folder: pathlib.Path):
        super().__init__()
        self._folder = folder
        self._weights: str | None = None
        self.history: list[dict[str, float]] = []
        if (folder / _STATE).exists():
            self._weights, self.history = json_text.read_file(folder / _STATE, _epochs, RecipeError)

    def on_train_begin(self, logs=None) -> None:
        if self._weights is not None:
            file = self._folder / self._weights
            try:
                hdf5.refuse_reach_of(file)
                self.model.load_weights(file)
            except Exception as error:  # HDF5 and Keras fail on damaged files in many ways
                said = f"{file} is damaged ({one_line(error)}). Remove the working folder and start again."
                raise RecipeError(said) from error
        self._remove_others()

    def _remove_others(self) -> None:
        """Weights that no list of epochs names: of an epoch before, or written when the process was killed."""
        for file in self._folder.glob("epoch-*.weights.h5"):
            if file.name != self._weights:
                file.unlink()

    def on_epoch_end(self, epoch, logs=None) -> None:
        name = f"epoch-{epoch + 1:04}.weights.h5"
        self.model.save_weights(self._folder / name, overwrite=True)
        self.history.append({key: float(value) for key, value in (logs or {}).items()})
        self._weights = name
        stored = {"weights": name, "history": self.history}
        write_atomic(self._folder / _STATE, json.dumps(stored).encode())
        self._remove_others()
