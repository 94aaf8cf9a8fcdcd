"""`StepContext`: what a running step of a strategy works with."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Sequence

import keras

from tfstruct.compression.distillation import distillation_callbacks
from tfstruct.compression.folder import WorkingFolder
from tfstruct.compression.task import Task
from tfstruct.compression.training import fit
from tfstruct.errors import ModelError
from tfstruct.graph.copying import copied
from tfstruct.surgery import recalibrate_batch_norm


@dataclasses.dataclass(frozen=True)
class StepContext:
    """What a running step works with.

    Attributes:
        task: the model, the data and the budget.
        model: the model that the steps before made; it is not changed.
        folder: of this step alone.
        seed: of this step.
        trained: what the same step made of the same model in a shorter training, whose weights this one starts from.
    """

    task: Task
    model: keras.Model
    folder: WorkingFolder
    seed: int
    trained: keras.Model | None = None

    def copy(self) -> keras.Model:
        """A copy of the model, to be trained."""
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
        """Trains a model in place, with the original as its teacher; resumes where an earlier call was killed.

        Args:
            rate: the peak learning rate; by default that of the settings.
            decay: True for cosine decay to 0, False for a constant rate.
            part: name of this training's folder within that of the step.
        """
        settings, task = self.task.settings, self.task
        if self.trained is not None and part == "training":
            model.set_weights(self.trained.get_weights())
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
                *distillation_callbacks(task.model, model, task.aim, settings.distillation, settings.temperature),
            ],
            augment=task.augment,
            on_step=task.progress.step,
        )

    def recalibrate(self, model: keras.Model) -> None:
        """Recalibrates the batch norms of a model in place, if it has any."""
        with contextlib.suppress(ModelError):  # there is none
            recalibrate_batch_norm(model, self.task.some_inputs)

    def once(self, name: str, make: Callable[[], tuple[keras.Model, dict]]) -> tuple[keras.Model, dict]:
        """Runs `make` and stores its result, a model and plain data; later calls load the stored result."""
        known = self.folder.read(f"{name}.json")
        if known is not None:
            return self.folder.load(name), known
        model, data = make()
        self.folder.save(name, model)
        self.folder.write(f"{name}.json", data)
        return model, json.loads(json.dumps(data))
