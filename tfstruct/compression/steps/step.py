"""`Step`: one thing that is done to a model on its way."""

import dataclasses
import importlib
import json
from collections.abc import Mapping
from typing import Any, ClassVar

from tfstruct.compression.outcome import Outcome
from tfstruct.errors import RecipeError

KINDS: dict[str, type["Step"]] = {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One thing that is done to a model: plain data, and the method that does it.

    A subclass has a `kind`, which names it in strategies and files, the `share` of all epochs that it takes beside
    others, and its settings as fields.

    Attributes:
        reason: why it is done, in words.
        epochs: how long it trains; 0: not at all; None: its share of all epochs.
        optional: it is taken back, and steps of its kind behind it are left out, where the file misses the quality that
            the budget asks for afterwards.
    """

    kind: ClassVar[str] = ""
    share: ClassVar[float] = 0.0

    reason: str = ""
    epochs: int | None = None
    optional: bool = False

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if "kind" in vars(cls):
            KINDS[cls.kind] = cls

    def __post_init__(self):
        count = self.epochs
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 0):
            raise RecipeError(f"`epochs` of {self.kind} must be a whole number, 0 or more. Received: {self.epochs!r}.")
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _frozen(getattr(self, field.name)))

    def run(self, work: Any) -> Outcome:
        """Applies the step to `work.model`, which is not changed.

        Args:
            work: a `compression.work.Work`.
        """
        raise NotImplementedError

    @property
    def settings(self) -> dict:
        """The settings that are not as they are by default, without the reason."""
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
        return cls.from_dict({"kind": step} if isinstance(step, str) else step)


def _kind(name) -> type[Step]:
    room = importlib.import_module("tfstruct.compression.steps")
    for every in room.__all__:  # a kind is known once its class is made
        getattr(room, every)
    if name not in KINDS:
        raise RecipeError(f"A step must be one of {', '.join(KINDS)}. Received: {name!r}.")
    return KINDS[name]


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


def _frozen(value):
    """Lists, which JSON gives back, as tuples."""
    if isinstance(value, Mapping):
        return {name: _frozen(one) for name, one in value.items()}
    return tuple(_frozen(one) for one in value) if isinstance(value, (list, tuple)) else value


def _plain(value):
    return value.to_dict() if hasattr(value, "to_dict") else str(value)
