"""Searches: the same whatever kills them, however many work on them, and nothing trained in vain."""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import time
import types

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tfstruct.compression import Budget, Candidate, Search, SearchReport, Space, search_strategies, steps
from tfstruct.compression.folder import WorkingFolder
from tfstruct.compression.search import searching, workers
from tfstruct.compression.search.evaluation import attempted
from tfstruct.compression.search.pareto import costs, front
from tfstruct.compression.search.proposals import first_points
from tfstruct.errors import BudgetError, RecipeError

PLAIN = Candidate("plain int8", "accuracy", 0.95, 1000, 1000, 900, 10_000, 100, 10.0)
SPACE = Space(whole=10_000, blocks=3, energies=(1.0, 0.9), factorized=("a",), precisions=("int8", "int4"))
SEARCH = Search(trials=14, space=SPACE, start=False, generation=4)


def task(folder, budget="tflite_bytes=90%"):
    """As much of a `Task` as a search with a cheap `evaluate` looks at."""
    return types.SimpleNamespace(
        original=PLAIN,
        plain=PLAIN,
        limits=Budget.of(budget).limits(PLAIN, PLAIN),
        folder=WorkingFolder(pathlib.Path(folder)),
        settings=types.SimpleNamespace(seed=3),
        progress=types.SimpleNamespace(stage=lambda name: None),
    )


def cheap(task, strategy, folder, seed) -> Candidate:
    """Figures that follow from the strategy and, a little, from the seed."""
    by_kind = {step.kind: step for step in strategy}
    macs = by_kind["prune_channels"].budget["macs"] if "prune_channels" in by_kind else 10_000
    small = 0.6 if by_kind["quantize"].precision == "int4" else 1.0
    blocks = by_kind["drop_blocks"].count if "drop_blocks" in by_kind else 0
    if macs < 2_000:
        raise BudgetError("not trained: too small")
    quality = 0.9 * (macs / 10_000) ** 0.1 - 0.02 * blocks - 0.05 * (small < 1) + 1e-3 * (seed % 7)
    size = int((100 + macs / 10) * small) - 10 * blocks
    return dataclasses.replace(PLAIN, quality=quality, tflite_bytes=size, macs=macs, strategy=tuple(strategy))


def slow(task, strategy, folder, seed) -> Candidate:
    time.sleep(0.1)
    return cheap(task, strategy, folder, seed)


def trials(found: SearchReport) -> list:
    return [json.dumps(trial.to_dict()) for trial in found.trials]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return search_strategies(task(tmp_path_factory.mktemp("search")), SEARCH, evaluate=cheap)


def test_a_search_records_every_trial(found):
    assert [trial.number for trial in found.trials] == list(range(14))
    assert [trial.generation for trial in found.trials] == [1] * 4 + [2] * 4 + [3] * 4 + [4] * 2
    assert len({json.dumps([s.to_dict() for s in trial.steps]) for trial in found.trials}) == 14
    assert [trial.seed for trial in found.trials] == [3 + 100 * (n + 1) for n in range(14)]
    left = [trial for trial in found.trials if trial.candidate is None]
    assert left and all(trial.reason == "not trained: too small" for trial in left)
    for trial in found.measured:
        again = cheap(None, trial.steps, None, trial.seed)
        assert trial.candidate == again.replace(name=f"trial {trial.number}")
    assert SearchReport.from_json(found.to_json()) == found
    study = optuna.load_study(study_name=found.name, storage=found.storage)
    assert [t.number for t in study.best_trials] == sorted(trial.number for trial in found.front())
    assert {t.state.name for t in study.trials} == {"COMPLETE", "PRUNED"}


def test_the_best_is_within_the_budget_and_has_the_best_quality(found):
    within = [trial for trial in found.measured if trial.candidate.tflite_bytes <= 900]
    assert found.best == max(within, key=lambda trial: trial.candidate.quality)
    smallest = dataclasses.replace(found, limits=Budget.of("accuracy_drop=10%").limits(PLAIN, PLAIN)).best
    good = [trial for trial in found.measured if trial.candidate.quality >= 0.85]
    assert smallest.candidate.tflite_bytes == min(trial.candidate.tflite_bytes for trial in good)
    missed = dataclasses.replace(found, limits=Budget.of({"tflite_bytes": 1e-3}).limits(PLAIN, PLAIN)).best
    assert missed.candidate.tflite_bytes == min(trial.candidate.tflite_bytes for trial in found.measured)


def test_a_search_with_more_trials_goes_on_as_one_that_had_them_at_once(found, tmp_path):
    for count in (2, 5, 14):  # within a generation, and at its first
        more = search_strategies(task(tmp_path), dataclasses.replace(SEARCH, trials=count), evaluate=cheap)
        assert len(more.trials) == count
    assert trials(more) == trials(found)


@pytest.mark.parametrize("order", ["reversed", "shuffled"])
def test_the_order_in_which_trials_end_does_not_matter(found, tmp_path, monkeypatch, order):
    rng = np.random.default_rng(0)

    @contextlib.contextmanager
    def jumbled(of_task, evaluate, *_):
        def carried_out(some):
            for i in range(len(some))[::-1] if order == "reversed" else rng.permutation(len(some)):
                yield attempted(evaluate, of_task, some[i])

        yield carried_out

    monkeypatch.setattr(searching, "workers", jumbled)
    assert trials(search_strategies(task(tmp_path), SEARCH, evaluate=cheap)) == trials(found)


def test_a_killed_search_resumes(found, tmp_path):
    here = pathlib.Path(__file__).parent
    code = f"""
import sys; sys.path[:0] = [{str(here)!r}, {str(here.parent)!r}]
import test_search as t
t.search_strategies(t.task({str(tmp_path)!r}), t.SEARCH, evaluate=t.slow)
"""
    child = subprocess.Popen([sys.executable, "-c", code], cwd=here.parents[1], env={**os.environ})

    def done() -> int:
        # Not through Optuna, which would make the tables at the same time as the search.
        try:
            with contextlib.closing(sqlite3.connect(f"file:{tmp_path / 'search.db'}?mode=ro", uri=True)) as database:
                ended = "SELECT COUNT(*) FROM trials WHERE state IN ('COMPLETE', 'PRUNED', 'FAIL')"
                return database.execute(ended).fetchone()[0]
        except sqlite3.OperationalError:  # the file or its tables are not there yet
            return 0

    while done() < 5:
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    before = done()
    assert 5 <= before < 14
    asked = []

    def counted(*args):
        asked.append(args)
        return cheap(*args)

    assert trials(search_strategies(task(tmp_path), SEARCH, evaluate=counted)) == trials(found)
    assert len(asked) == 14 - before
    search_strategies(task(tmp_path), SEARCH, evaluate=counted)
    assert len(asked) == 14 - before


def test_a_trial_that_diverges_is_left_out(tmp_path):
    def diverged(task, strategy, folder, seed):
        made = cheap(task, strategy, folder, seed)
        return made.replace(quality=float("nan")) if strategy[-1].precision == "int4" else made

    space = Space(channels=None, whole=1, precisions=("int8", "int4"))
    found = search_strategies(task(tmp_path), dataclasses.replace(SEARCH, space=space), evaluate=diverged)
    (left,) = (trial for trial in found.trials if trial.candidate is None)
    assert left.steps[-1].precision == "int4" and left.reason == "accuracy is nan: training diverged"


def test_another_space_is_another_search_in_the_same_folder(found, tmp_path):
    one = search_strategies(task(tmp_path), dataclasses.replace(SEARCH, trials=3), evaluate=cheap)
    other = dataclasses.replace(SPACE, precisions=("int8",))
    two = search_strategies(task(tmp_path), dataclasses.replace(SEARCH, trials=3, space=other), evaluate=cheap)
    assert one.name != two.name and len(two.trials) == 3
    assert {trial.steps[-1].precision for trial in two.trials} == {"int8"}


def test_a_small_space_ends_the_search(tmp_path):
    space = Space(channels=None, whole=1, precisions=("int8", "int4"))
    found = search_strategies(task(tmp_path), dataclasses.replace(SEARCH, space=space), evaluate=cheap)
    assert sorted(trial.steps[-1].precision for trial in found.trials) == ["int4", "int8"]


def test_front_against_the_definition():
    points = [(1, 5), (2, 4), (2, 4), (3, 4), (4, 1), (5, 0.5), (4, 2)]
    assert front(points) == [0, 1, 4, 5]
    rng = np.random.default_rng(1)
    points = rng.integers(0, 6, (60, 3)).tolist()

    def beats(a, b):
        return all(x <= y for x, y in zip(a, b, strict=True)) and a != b

    by_hand = {tuple(p) for p in points if not any(beats(q, p) for q in points)}
    chosen = front(points)
    assert {tuple(points[i]) for i in chosen} == by_hand and len(chosen) == len(by_hand)
    assert costs(PLAIN, ("quality", "macs")) == (-0.95, 10_000)
    assert costs(PLAIN.replace(greater_is_better=False), ("quality", "macs")) == (0.95, 10_000)


def test_the_first_points_fill_every_part_of_every_range_once():
    distributions = {
        "share": FloatDistribution(0.2, 1.0),
        "rate": FloatDistribution(1e-4, 1.0, log=True),
        "blocks": IntDistribution(0, 7),
        "kind": CategoricalDistribution(["a", "b"]),
    }
    points = first_points(distributions, 5, 8)
    assert sorted(int((p["share"] - 0.2) / 0.1) for p in points) == list(range(8))
    assert sorted(int((np.log10(p["rate"]) + 4) / 0.5) for p in points) == list(range(8))
    assert sorted(p["blocks"] for p in points) == list(range(8))
    assert sorted(p["kind"] for p in points) == ["a"] * 4 + ["b"] * 4
    assert first_points(distributions, 5, 8) == points != first_points(distributions, 6, 8)


def test_a_point_is_a_strategy():
    point = {"channels": 0.5, "multiple": 8, "blocks": 2, "energy": 0.9, "precision": "int4"}
    made = SPACE.steps(point)
    assert [step.kind for step in made] == ["optimize", "drop_blocks", "factorize", "prune_channels", "quantize"]
    assert made[1].count == 2 and made[2].layers == ("a",) and made[4].precision == "int4"
    assert made[3].budget == {"macs": 5_000} and made[3].round_to == 8
    space = dataclasses.replace(SPACE, early=True, methods=("svd", "spatial"))
    made = space.steps({**point, "early": True, "method": "spatial"})
    assert made[1] == steps.DownsampleEarly() and made[3].method == "spatial"
    assert {"early", "method"} == {*space.distributions} - {*SPACE.distributions}
    none = SPACE.steps({"channels": 0.99, "multiple": 8, "blocks": 0, "energy": 1.0, "precision": "int8"})
    assert none == (steps.Optimize(), steps.Quantize(precision="int8"))


def test_figures_of_the_report(found):
    text = str(found)
    assert text.startswith(f"14 trials, {14 - len(found.measured)} of them not carried out; {len(found.front())} on")
    assert f"best: trial {found.best.number}: accuracy" in text and "not trained: too small" in text
    table = found.table()
    assert table.row_count == len(found.front())
    assert [column.header for column in table.columns][1:4] == ["accuracy, validation", "file, bytes", "MACs"]
    sizes = [int(row[2].replace(",", "")) for row in found.rows()]
    assert sizes == [trial.candidate.tflite_bytes for trial in found.front()]
    quality, macs = found.plot().axes
    xs = [line.get_xdata() for line in quality.lines]
    assert sorted(xs[1]) == sorted(sizes) and len(xs[0]) == len(found.measured) and list(xs[3]) == [900, 900]
    assert macs.get_xlabel() == "MACs"


def test_what_cannot_be_searched_is_said(tmp_path):
    with pytest.raises(RecipeError, match=r"`trials` must be a whole number, 1 or larger\. Received: 0"):
        Search(trials=0)
    with pytest.raises(RecipeError, match="say how many workers"):
        Search(address="auto")
    with pytest.raises(RecipeError, match="'quality' and some of macs"):
        Search(objectives=("quality", "beauty"))
    with pytest.raises(RecipeError, match="two or more different ones"):
        Search(objectives=("quality",))
    with pytest.raises(RecipeError, match="names arena_bytes, which is unknown"):
        search_strategies(task(tmp_path), Search(objectives=("quality", "arena_bytes")), evaluate=cheap)
    with pytest.raises(RecipeError, match=r"in \(0, 1\]"):
        Space(channels=(0.5, 2.0))


@dataclasses.dataclass(frozen=True)
class Stored:
    """What a Ray worker opens instead of a stored `Task`."""

    folder: str

    def open(self):
        return task(self.folder)


def killed_once(task, strategy, folder, seed) -> Candidate:
    """SIGKILLs the worker that is the first to come here."""
    try:
        (task.folder.path / "killed").touch(exist_ok=False)
    except FileExistsError:
        return cheap(task, strategy, folder, seed)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_two_ray_workers_one_of_which_is_killed_find_the_same(found, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(workers.StoredTask, "of", lambda of_task: Stored(str(of_task.folder.path)))
    here = pathlib.Path(__file__).parent  # what workers unpickle by name, they import
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(map(str, (here, here.parents[1], os.environ.get("PYTHONPATH", ""))))
    )
    search = dataclasses.replace(SEARCH, workers=2)
    assert trials(search_strategies(task(tmp_path), search, evaluate=killed_once)) == trials(found)
    assert (tmp_path / "killed").exists()


def test_a_ray_that_cannot_start_says_what_to_do(monkeypatch):
    def init(**_):
        raise OSError("validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes: /a/b")

    ray = types.SimpleNamespace(is_initialized=lambda: False, init=init)
    with (
        pytest.raises(RecipeError, match=r"reached or started: .*107 bytes.*RAY_TMPDIR"),
        workers._connected(ray, 2, None),
    ):
        pass
