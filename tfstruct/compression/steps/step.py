"""`Step`: a kind of change to a model: its settings, what it proposes, its choices in a search, how it runs."""

import dataclasses
import importlib
import json
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from tfstruct.arguments import is_count
from tfstruct.compression.alternatives.alternative import Alternative, Part, frozen
from tfstruct.compression.decision import Decision
from tfstruct.compression.outcome import Outcome
from tfstruct.errors import RecipeError

_KINDS: dict[str, type["Step"]] = {}


@dataclasses.dataclass(frozen=True)
class Proposal:
    """What a kind of step would do for a task.

    Attributes:
        steps: to be done; none where it has nothing to do.
        decisions: why, or why not.
        sizing: of a kind that changes what channels can do: that afterwards (a `Sizing`), where it has steps.
    """

    steps: tuple["Step", ...] = ()
    decisions: tuple[Decision, ...] = ()
    sizing: Any = None


@dataclasses.dataclass(frozen=True)
class Choices:
    """What a search may choose of one kind of step: a frozen dataclass whose fields have defaults, and names that no
    other kind's have.

    A subclass has a `place`: in this order the kinds' choices are written and drawn, so that a search on disk is known
    again.
    """

    place: ClassVar[int] = 100

    @classmethod
    def of(cls, task: Any) -> "Choices":
        """What there is to choose for a task (a `Task`)."""
        return cls()

    @property
    def distributions(self) -> dict:
        """Name -> Optuna's distribution of it; empty where there is nothing to choose."""
        return {}

    def steps(self, point: Mapping[str, Any]) -> tuple["Step", ...]:
        """The steps of a point, which has a value for each name in `distributions`."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One change to a model: plain data, and the methods that propose and apply it.

    A subclass is known by being defined; those of this folder are found there. It has its settings as fields, `run`,
    and as far as it takes part: `propose`, `completed`, `Choices`.

    Class attributes:
        kind: names it in strategies and files.
        share: of all epochs, that it takes beside others.
        place: in a strategy that `compress` decides on; None: it is done only where a user asks for it.
        makes_room: whether what it does lets channels meet a budget that they cannot meet alone. Of several such
            kinds, only the one that leaves most of the network is done.
        doing: names it in a sentence, such as "dropping blocks".
        choices: a `Choices`: what a search may choose of it; None: a search leaves it out.

    Attributes:
        reason: why it is done, in words.
        epochs: of training; 0: none; None: its share of all epochs.
        optional: if the file misses the required quality afterwards, the step is undone, and later steps of its kind
            are skipped.

    Example:
        >>> step = tfstruct.compression.steps.PruneChannels(budget={"macs": 0.6}, epochs=2)
        >>> isinstance(step, tfstruct.compression.Step), step.kind, step.epochs
        (True, 'prune_channels', 2)
    """

    kind: ClassVar[str] = ""
    share: ClassVar[float] = 0.0
    place: ClassVar[int | None] = None
    makes_room: ClassVar[bool] = False
    doing: ClassVar[str] = ""
    choices: ClassVar[type[Choices] | None] = None

    reason: str = ""
    epochs: int | None = None
    optional: bool = False

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if "kind" in vars(cls):
            _KINDS[cls.kind] = cls

    def __post_init__(self):
        if self.epochs is not None and not is_count(self.epochs, 0):
            raise RecipeError(f"`epochs` of {self.kind} must be a whole number, 0 or more. Received: {self.epochs!r}.")
        if self.epochs is not None:
            object.__setattr__(self, "epochs", int(self.epochs))
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, frozen(getattr(self, field.name)))

    def run(self, context: Any) -> Outcome:
        """Applies the step to `context.model`, which is not changed.

        Args:
            context: a `compression.step_context.StepContext`.
        """
        raise NotImplementedError

    @classmethod
    def propose(cls, outlook: Any) -> Proposal:
        """What this kind would do, decided from the task and from how it gets small enough (an `Outlook`)."""
        return Proposal()

    @classmethod
    def parts(cls, task: Any) -> tuple[Part, ...]:
        """What this kind can decide on its own for a task (a `Task`), each with its alternatives."""
        return ()

    @classmethod
    def assembled(cls, chosen: Mapping[Part, Alternative]) -> tuple["Step", ...]:
        """The alternatives that were chosen of this kind's parts, none of them as it is, as steps."""
        raise NotImplementedError

    def edit(self, model: Any) -> Any:
        """A new model after the change alone, untrained and without a look at data: what is measured before anything is
        chosen. Of kinds that offer `parts`.

        Args:
            model: a Keras model, or a region of it under the same paths.
        """
        raise NotImplementedError

    def completed(self, sizing: Callable[[], Any]) -> "Step":
        """The step with what its user left open filled in; `sizing()` is a `Sizing`."""
        return self

    @property
    def uses_four_bits(self) -> bool:
        """Whether it gives weights 4 bits because of the budget: where the quality is missed, 8 are tried."""
        return False

    @property
    def settings(self) -> dict:
        """The settings that differ from their defaults, without the reason."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "reason" and getattr(self, field.name) != _default(field)
        }

    def replace(self, **changes) -> "Step":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def __str__(self) -> str:
        said = ", ".join(f"{name}={_short(value)}" for name, value in self.settings.items())
        return f"{self.kind}({said})"

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"kind": self.kind, **json.loads(json.dumps(fields, default=_plain))}

    @classmethod
    def from_dict(cls, data: Mapping) -> "Step":
        """The step of that `kind`."""
        data = dict(data)
        kind = _kind(data.pop("kind", None))
        known = {field.name for field in dataclasses.fields(kind)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise RecipeError(f"The step {kind.kind} has {', '.join(sorted(known))}. Received: {', '.join(unknown)}.")
        return kind(**data)

    @classmethod
    def of(cls, step: "Step | str | Mapping") -> "Step":
        """A step from its kind, or from a dict."""
        if isinstance(step, Step):
            return step
        if not isinstance(step, str | Mapping):
            raise RecipeError(f"A step must be a Step, the name of one, or a dict with its `kind`. Received: {step!r}.")
        return cls.from_dict({"kind": step} if isinstance(step, str) else step)


def kinds() -> tuple[type[Step], ...]:
    """All kinds of steps, in the order of a strategy; those that only a user asks for last."""
    room = importlib.import_module("tfstruct.compression.steps")
    for module in pkgutil.iter_modules(room.__path__):
        importlib.import_module(f"{room.__name__}.{module.name}")
    found = list(_KINDS.values())
    return tuple(sorted(found, key=lambda kind: (kind.place is None, kind.place or 0)))


def _kind(name) -> type[Step]:
    known = {kind.kind: kind for kind in kinds()}
    if name not in known:
        raise RecipeError(f"A step must be one of {', '.join(known)}. Received: {name!r}.")
    return known[name]


def require_choices(choices: Choices, *names: str) -> None:
    """Refuses fields that are empty: a search needs one choice at least."""
    for name in names:
        if not getattr(choices, name):
            raise RecipeError(f"`{name}` must have one choice at least. Received: none.")


def _default(field: dataclasses.Field):
    make = field.default_factory
    return field.default if make is dataclasses.MISSING else make()


def _short(value) -> str:
    """As in code, numbers to four digits."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name!r}: {_short(one)}" for name, one in value.items()) + "}"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return repr(value)


def _plain(value):
    return value.to_dict() if hasattr(value, "to_dict") else str(value)
