"""A job killed again and again, at seeded points, until it ends; then in a new folder, until there were enough."""

import os
import pathlib

import numpy as np
from forking import Ended, Forks, Kill

POINTS = int(os.environ.get("RELIABILITY_POINTS", "6"))
_AT_ONCE = 8  # kills in one folder before the job may end


def killed_and_gone_on(forks: Forks, job: str, folder: pathlib.Path, points: int, seed: int = 0, check=None, **options):
    """Kills a job at `points` points, and compares what it ends with, and leaves, with a run that nobody disturbs.

    Args:
        check: called with the folder after each kill.
        options: of the job.
    """
    forks.warm = True
    whole = ended(forks, job, folder / "whole", **options)
    left = names(folder / "whole")
    rng = np.random.default_rng([seed, *job.encode()])
    done, runs, said = 0, 0, []
    while done < points:
        place, here, again = folder / f"run{runs}", 0, None
        runs += 1
        while done < points and here < _AT_ONCE:
            kill = drawn(rng, whole)
            found = forks.run(job, place, kill, **options)
            if found.status == 0:
                again = found  # it had less to do than was left
                break
            assert found.status == -kill.number, (str(kill), found.status, found.said)
            done, here = done + 1, here + 1
            said.append(str(kill))
            if check is not None:
                check(place)
        if here:
            again = again or ended(forks, job, place, **options)
            assert again.outcome == whole.outcome, (said[-here:], differences(again.outcome, whole.outcome))
            assert names(place) == left, (said[-here:], sorted(names(place) ^ left))
            assert temporary(forks) == set(), (said[-here:], temporary(forks))
    where = "; ".join(said)
    print(f"\n{job} {options or ''}: killed {done} times in {runs} runs of {whole.events} events")
    print(f"  at {where}: the same each time")


def ended(forks: Forks, job: str, folder: pathlib.Path, **options) -> Ended:
    """A job that nobody kills."""
    found = forks.run(job, folder, **options)
    assert found.status == 0, (found.status, found.said)
    return found


def drawn(rng, whole: Ended) -> Kill:
    """At an event, a moment after one, or at any time."""
    kind = rng.integers(4)
    if kind == 0:
        return Kill(seconds=float(rng.uniform(0, whole.seconds)))
    event = int(rng.integers(1, whole.events + 1))
    return Kill(event, 0.0 if kind == 1 else float(rng.uniform(0, 3e-3)))


def names(folder: pathlib.Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def temporary(forks: Forks) -> set[str]:
    """What of ours is left in the temporary folder."""
    return {name for name in os.listdir(forks.temporary) if "tfstruct" in name}


def differences(a, b, where="") -> list[str]:
    """Where two pieces of plain data differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [d for key in sorted({*a, *b}) for d in differences(a.get(key), b.get(key), f"{where}/{key}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{where}/{i}")]
    return [] if a == b else [f"{where}: {a!r} != {b!r}"[:300]]
