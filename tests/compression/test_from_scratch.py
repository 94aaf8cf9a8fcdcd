"""A network without what it has learned: as a step, and tried by "auto" where little of the weights is left."""

import numpy as np
from small_tasks import points, residual_network

from tfstruct.compression import Settings, Task, carry_out, steps
from tfstruct.compression.alternatives import choosing
from tfstruct.compression.automatic import automatic


def task_of(process, epochs, folder=None, budget="macs=50%"):
    settings = Settings(epochs=epochs, batch_size=64, learning_rate=1e-2)
    data = points(384, 1), points(96, 2)
    return Task(residual_network(), *data, budget, settings=settings, process=process, workdir=folder)


def test_the_weights_are_drawn_anew_and_trained(process):
    with task_of(process, 12) as task:
        strategy = [
            steps.PruneChannels(widths={"stem": 8, "inner": 16}, epochs=0), steps.FromScratch(epochs=12),
            steps.Quantize(precision="int8", epochs=0),
        ]  # fmt: skip
        made = carry_out(task, strategy)
        _, scratch, _ = made.stages
        assert scratch.changes == (("small", "weights drawn anew"),) and len(scratch.history) == 12
        assert made.model.get_layer("inner").kernel.shape == (8, 16) and made.candidate.quality > 0.6  # 0.25 by chance
        pruned = task.folder.inner("01-prune_channels").load("model").get_layer("inner").kernel.numpy()
        assert np.abs(pruned - made.model.get_layer("inner").kernel).max() > 0.1
        again = carry_out(task, [steps.FromScratch(epochs=1)], task.folder.inner("a"), seed=5)
        other = carry_out(task, [steps.FromScratch(epochs=1)], task.folder.inner("b"), seed=5)
        for one, two in zip(again.model.get_weights(), other.model.get_weights(), strict=True):
            np.testing.assert_array_equal(one, two)
        untouched = carry_out(task, [steps.FromScratch(epochs=0)], task.folder.inner("c"))
        assert untouched.stages[0].skipped == (("small", "there are no epochs to train it in"),)
        assert untouched.model is task.model


def test_the_better_one_goes_on(process, tmp_path, monkeypatch):
    monkeypatch.setattr(choosing, "_LOST", 0.0)  # whatever is lost
    with task_of(process, 16, tmp_path / "work") as task:
        made, decisions, _ = automatic(task)
    kinds = [stage.step.kind for stage in made.stages]
    (why,) = [one.reason for one in decisions if "is best after 1 epoch" in one.reason]
    assert "from_scratch" in why
    best = int(why.split("choice ")[1].split(" ")[0])
    (part,) = [one for one in why.split("(", 1)[1].split("; ") if one.startswith(f"{best},")]
    assert ("from_scratch" in part) == ("from_scratch" in kinds)
    trained = sum(stage.step.epochs or 0 for stage in made.stages)
    assert trained + why.count(": accuracy") == 16
    with task_of(process, 16, tmp_path / "work") as task:
        again, _, _ = automatic(task)
    assert again.file.content == made.file.content
