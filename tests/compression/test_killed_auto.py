"""`compress` by "auto", killed at any point of what it measures, tries and trains: called again, the same choice and
the same file."""

import numpy as np
import pytest
from small_tasks import points, residual_network

from tfstruct.compression import Settings, Task
from tfstruct.compression.alternatives import rivals
from tfstruct.compression.automatic import automatic
from tfstruct.compression.progress import ProgressReporter

pytestmark = pytest.mark.slow
KILLS = 10
SETTINGS = Settings(epochs=12, batch_size=64, learning_rate=1e-2, seed=1)


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def run(process, tmp_path_factory):
    """Function of a working folder's name and of how many events it lives for: the steps, their file, all events."""
    model, (x, y) = residual_network(), points(384, 1)
    home = tmp_path_factory.mktemp("killed")

    def go(folder: str, lives: int | None = None):
        events: list[str] = []

        def counted(method, event):
            def call(self, *arguments):
                events.append(arguments[0] if arguments else event)
                if len(events) == lives:
                    raise Killed
                return method(self, *arguments)

            return call

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ProgressReporter, "stage", counted(ProgressReporter.stage, "stage"))
            patch.setattr(rivals, "_MOST", 100.0)  # so that there is something to try
            patch.setattr(ProgressReporter, "step", counted(ProgressReporter.step, "step"))
            with Task(
                model, (x[:288], y[:288]), (x[288:], y[288:]), "macs=60%,tflite_bytes=95%", settings=SETTINGS,
                workdir=home / folder, process=process,
            ) as task:  # fmt: skip
                made, decisions, _ = automatic(task)
        decided = [(one.kind, one.taken) for one in decisions]  # reasons say latencies, which differ
        return [stage.step for stage in made.stages], decided, made.file.content, events

    return go


@pytest.fixture(scope="module")
def whole(run):
    return run("whole")


def test_the_events_are_of_every_stage(whole):
    stages = [event for event in whole[3] if event != "step"]
    assert {"measure alternatives", "choose", "try choice 1 of 3", "try choice 3 of 3", "quantize"} <= {*stages}


@pytest.mark.parametrize("kill", range(KILLS))
def test_the_same_choice_and_the_same_file(kill, run, whole):
    lives = int(np.random.default_rng(kill).uniform(kill, kill + 1) / KILLS * len(whole[3])) + 1
    with pytest.raises(Killed):
        run(f"killed-{kill}", lives)
    strategy, decided, content, _ = run(f"killed-{kill}")
    assert (strategy, decided) == (whole[0], whole[1])
    assert content == whole[2]
