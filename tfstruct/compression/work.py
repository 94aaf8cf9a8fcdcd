"""What one step of a strategy works with."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Sequence

import keras

from tfstruct.compression.folder import WorkingFolder
from tfstruct.compression.task import Task
from tfstruct.compression.teaching import taught_by
from tfstruct.compression.training import fit
from tfstruct.errors import ModelError
from tfstruct.graph.copying import copied
from tfstruct.surgery import recalibrate_batch_norm


@dataclasses.dataclass(frozen=True)
class Work:
    """One step at work.

    Attributes:
        task: what has to be done.
        model: as it is now; it is not changed.
        folder: of this step alone.
        seed: of this step.
    """

    task: Task
    model: keras.Model
    folder: WorkingFolder
    seed: int

    def copy(self) -> keras.Model:
        """The model with weights of its own, to be trained."""
        return copied(self.model)

    def train(
        self,
        model: keras.Model,
        epochs: int,
        *,
        rate: float | None = None,
        decay: bool = True,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        part: str = "training",
    ) -> list[dict[str, float]]:
        """Trains a model in place, with the original as its teacher; goes on where an earlier call was killed.

        Args:
            rate: the highest learning rate; by default that of the settings.
            decay: cosine decay from it to 0, or constant.
            part: names this training among those of the step.
        """
        settings, task = self.task.settings, self.task
        rate = settings.learning_rate if rate is None else rate
        steps = epochs * task.train.steps(settings.batch_size)
        return fit(
            model,
            task.train,
            aim=task.aim,
            epochs=epochs,
            batch_size=settings.batch_size,
            rate=keras.optimizers.schedules.CosineDecay(rate, steps) if decay else rate,
            seed=self.seed,
            folder=self.folder.path / part,
            callbacks=[
                *callbacks,
                *taught_by(task.model, model, task.aim, settings.distillation, settings.temperature),
            ],
            augment=task.augment,
            on_step=task.told.step,
        )

    def recalibrate(self, model: keras.Model) -> None:
        """Measures the batch norms of a model, if it has any, anew, in place."""
        with contextlib.suppress(ModelError):  # there is none
            recalibrate_batch_norm(model, self.task.some_inputs)

    def once(self, name: str, make: Callable[[], tuple[keras.Model, dict]]) -> tuple[keras.Model, dict]:
        """A model and plain data that `make` gives: the first time; later what it gave then."""
        known = self.folder.read(f"{name}.json")
        if known is not None:
            return self.folder.load(name), known
        model, data = make()
        self.folder.save(name, model)
        self.folder.write(f"{name}.json", data)
        return model, json.loads(json.dumps(data))
