"""The trials of a search and their results in a database."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence

from tfstruct.compression.search.trial import Trial
from tfstruct.errors import RecipeError, one_line


def optuna():
    """The package.

    Raises:
        RecipeError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise RecipeError("A search needs Optuna: pip install 'tfstruct[search]'.") from None
    return optuna


class Record:
    """An Optuna study, opened anew or as an earlier call left it. Only the process that proposes writes to it.

    Args:
        url: of the database.
        name: of the study: equal for the same search, and for no other.
        objectives: fields of `Candidate`.
        greater_is_better: of `quality`.

    Raises:
        RecipeError: the database cannot be reached or is damaged; from every method.
    """

    def __init__(self, url: str, name: str, objectives: Sequence[str], greater_is_better: bool):
        self.objectives, self.name = tuple(objectives), name
        self._place = re.sub(r"://[^/@]*@", "://", str(url))  # without a password
        more = {"quality"} if greater_is_better else set()
        self.directions = ["maximize" if one in more else "minimize" for one in objectives]
        with self._usable(), _quiet():
            self._study = optuna().create_study(
                storage=url, study_name=name, directions=self.directions, load_if_exists=True
            )

    def add(self, trial: Trial, point: Mapping, distributions: Mapping) -> None:
        """Records a trial that is to be carried out."""
        made = optuna().trial
        with self._usable():
            self._study.add_trial(made.create_trial(
                state=made.TrialState.RUNNING,
                params=dict(point),
                distributions={name: distributions[name] for name in point},
                user_attrs={"trial": trial.to_dict()},
            ))  # fmt: skip

    def finish(self, trial: Trial) -> None:
        """Records the result of a trial, or why there is none."""
        made = optuna().trial
        with self._usable():
            made.Trial(self._study, self.stored()[trial.number]._trial_id).set_user_attr("trial", trial.to_dict())
            if trial.candidate is None:
                self._study.tell(trial.number, state=made.TrialState.PRUNED)
                return
            values = [float(getattr(trial.candidate, name)) for name in self.objectives]
            self._study.tell(trial.number, values)

    def stored(self) -> list:
        """The trials as Optuna has them, in the order of their numbers."""
        with self._usable():
            return self._study.get_trials(deepcopy=False)

    def trials(self) -> tuple[Trial, ...]:
        """All trials, as `Trial`s."""
        return self._as_trials(self.stored())

    def waiting(self) -> tuple[Trial, ...]:
        """The unfinished trials, also those that an earlier call began."""
        return self._as_trials([one for one in self.stored() if not one.state.is_finished()])

    def _as_trials(self, stored: Sequence) -> tuple[Trial, ...]:
        with self._usable():
            return tuple(Trial.from_dict(one.user_attrs["trial"]) for one in stored)

    @contextlib.contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Optuna and SQLAlchemy fail on damaged databases in many ways
            raise RecipeError(
                f"The record of the search in {self._place} cannot be used: {one_line(error)} Remove it and start "
                "again, or give another `storage`."
            ) from error


@contextlib.contextmanager
def _quiet():
    """Silences Optuna, which logs every study that is opened."""
    logging = optuna().logging
    level = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        logging.set_verbosity(level)
