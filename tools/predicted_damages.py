"""Whether what "auto" predicts of choices orders them as their training does: `python tools/bench.py damages`.

Choices are drawn at random within the budget: each has least damage for damages that were drawn. All train for an
epoch; the rank correlation is Spearman's, of the predicted damage and the accuracy that is lost.
"""

import itertools
import tempfile

import keras
import numpy as np
from accuracy_tasks import Task as Data
from accuracy_tasks import tasks
from interleaved import Table
from scipy.stats import spearmanr

from tfstruct import augment
from tfstruct.compression import Settings, Task
from tfstruct.compression.alternatives.choosing import Chosen, best_of, planned_limits, strategy_of
from tfstruct.compression.alternatives.measured import Measured, measured
from tfstruct.compression.alternatives.offered import conflicts_of
from tfstruct.compression.alternatives.solver import Choice, choose

BUDGET, CHOICES, STEPS = "tflite_bytes=60%", 20, 100


def damages(rounds: int, quick: bool = False, folder: str | None = None) -> None:
    """The predicted damage of each choice, the accuracy on held-out images after an epoch, and their correlation."""
    count = 3 if quick else CHOICES
    settings = {"budget": BUDGET, "choices": count}
    table = Table("damages", f"{count} random choices at {BUDGET}, each trained for an epoch", settings, folder)
    for data in tasks(quick):
        names = [f"{data.name}: choice {number + 1}" for number in range(count)]
        if not table.rows.keys() >= {*names}:
            for name, row in zip(names, _rows(data, count), strict=True):
                table.row(name, lambda row=row: row)
        rows = [table.rows[name] for name in names]
        found = spearmanr([row["predicted"] for row in rows], [-row["accuracy"] for row in rows])
        table.row(f"{data.name}: rank correlation", lambda found=found: {"accuracy": float(found.statistic)})
        keras.backend.clear_session()
    table.show()


def _rows(data: Data, count: int) -> list[dict]:
    x, y = data.train
    photographs = x.shape[1:] == (32, 32, 3)
    settings = Settings(epochs=1, batch_size=32, learning_rate=3e-3, temperature=4.0)
    with tempfile.TemporaryDirectory() as folder, Task(
        data.model(0), (x.astype("float32"), y), data.held, BUDGET, settings=settings, workdir=folder,
        augment=augment.images("light") if photographs else None,
    ) as task:  # fmt: skip
        known = measured(task, steps=STEPS)
        drawn = _drawn(known, planned_limits(task), count)
        _, made = best_of(task, [Chosen(one, strategy_of(known.parts, one, 2), ()) for one in drawn])
        ends = [result.candidate for result in made]
        return [
            {"predicted": one.damage, "accuracy": 100 * end.quality, "bytes": end.tflite_bytes}
            for one, end in zip(drawn, ends, strict=True)
        ]


def _drawn(known: Measured, limits: dict[str, float], count: int) -> list[Choice]:
    """Different choices within the limits, with the damages that were measured."""
    found: dict[tuple, Choice] = {}
    about = {"conflicts": conflicts_of(known.parts), "excluded": known.damages.failed, "runners_up": 0, "prices": False}
    for seed in itertools.count():
        rng = np.random.default_rng(seed)
        random = {name: np.r_[0, rng.exponential(1, len(own) - 1)] for name, own in known.damages.parts.items()}
        picked = choose(known.parts, known.tables, random, limits, **about).picked
        one = choose(
            known.parts, known.tables, known.damages.parts, limits, pairs=known.damages.pairs, fixed=picked, **about
        )
        found.setdefault(tuple(sorted(picked.items())), one)
        if len(found) == count or seed > 100 * count:
            return list(found.values())
