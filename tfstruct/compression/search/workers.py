"""Runs trials: in this process, or in Ray workers."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence

from tfstruct.compression.search.evaluation import Evaluate, attempted
from tfstruct.compression.search.stored_task import StoredTask
from tfstruct.compression.search.trial import Trial
from tfstruct.compression.task import Task
from tfstruct.errors import RecipeError, one_line

_RESTARTS = 3  # of a worker that was killed; its trial goes on where it was

# Runs trials; yields them with their results, in any order.
CarriedOut = Callable[[Sequence[Trial]], Iterator[Trial]]


@contextlib.contextmanager
def workers(task: Task, evaluate: Evaluate, count: int, address: str | None, gpus: float) -> Iterator[CarriedOut]:
    """Context manager: yields the function that runs trials.

    Ray Tune is not used: it proposes a new trial whenever a worker is free, so what is tried would depend on which
    worker is faster. Ray's actors only run what was proposed.

    Args:
        evaluate: runs one trial.
        count: Ray workers; 0: this process, one trial after the other.
        address: of a Ray cluster; None: processes on this machine.
        gpus: for each Ray worker.
    """
    if not count:

        def here(trials):
            for trial in trials:
                task.progress.stage(f"trial {trial.number}")
                yield attempted(evaluate, task, trial)

        yield here
        return
    ray = _ray()
    stored = StoredTask.of(task)
    with _connected(ray, count, address):
        # By default Ray gives a worker one thread for each CPU that it counts for it.
        threads = {"env_vars": {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))}}
        kind = ray.remote(
            num_cpus=1, num_gpus=gpus, max_restarts=_RESTARTS, max_task_retries=_RESTARTS, runtime_env=threads
        )(_Worker)
        actors = [kind.remote(stored, evaluate) for _ in range(count)]
        pool = ray.util.ActorPool(actors)

        def spread(trials):
            task.progress.stage(f"trials {trials[0].number} to {trials[-1].number}")
            yield from pool.map_unordered(lambda actor, trial: actor.carry_out.remote(trial), trials)

        try:
            yield spread
        finally:
            for actor in actors:
                ray.kill(actor)


class _Worker:
    """A Ray worker, which opens the task once."""

    def __init__(self, stored: StoredTask, evaluate: Evaluate):
        self._task, self._evaluate = stored.open().__enter__(), evaluate  # as long as the process

    def carry_out(self, trial: Trial) -> Trial:
        return attempted(self._evaluate, self._task, trial)


@contextlib.contextmanager
def _connected(ray, count: int, address: str | None):
    """Connects to Ray: the cluster the user is connected to, the one at `address`, or a new one on this machine."""
    if ray.is_initialized():
        yield
        return
    own = {"num_cpus": count, "include_dashboard": False} if address is None else {"address": address}
    try:
        ray.init(**own, logging_level="ERROR", log_to_driver=False)
    except Exception as error:  # whatever Ray raises
        where = "" if address is None else f" at {address}"
        remedy = " Give it a short folder for its sockets, by RAY_TMPDIR." if "path length" in str(error) else ""
        raise RecipeError(f"Ray could not be reached or started{where}: {one_line(error, 300)}.{remedy}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _ray():
    try:
        import ray
        import ray.util
    except ImportError:
        raise RecipeError("Workers need Ray: pip install 'tfstruct[ray]'.") from None
    return ray
