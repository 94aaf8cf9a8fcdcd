"""`Space`: what a search may choose from, put together from what the kinds of steps offer."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tfstruct.compression.steps.step import Choices, Step, kinds
from tfstruct.compression.task import Task
from tfstruct.errors import RecipeError


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class Space:
    """The choices of a search. An object of your own needs the same two members: `distributions` and `steps`.

        Space(channels=(0.3, 1.0), whole=model_macs, precisions=("int8", "int4"))

    Args:
        choices: of each kind of step that offers some; by default none goes but channels.
        fields: of these by name, in their place: `channels`, `whole`, `figure`, `multiples`, `gradual`
            (`steps.pruning.ChannelShare`), `early` (`steps.downsampling`), `blocks` (`steps.dropping`), `energies`,
            `factorized`, `methods` (`steps.factorizing`), `precisions` (`steps.quantizing`).

    Raises:
        RecipeError: a field that is unknown or out of range.

    Example:
        >>> space = tfstruct.compression.Space(channels=(0.3, 1.0), whole=160, precisions=("int8", "int4"))
        >>> sorted(space.distributions)
        ['channels', 'multiple', 'precision']
    """

    choices: tuple[Choices, ...]

    def __init__(self, choices: tuple[Choices, ...] | None = None, **fields):
        parts = [kind() for kind in _offered()] if choices is None else list(choices)
        for i, part in enumerate(parts):
            own = {name: fields.pop(name) for name in _names(part) if name in fields}
            parts[i] = dataclasses.replace(part, **own) if own else part
        if fields:
            known = ", ".join(name for part in parts for name in _names(part))
            raise RecipeError(f"A space has {known}. Received: {', '.join(fields)}.")
        object.__setattr__(self, "choices", tuple(parts))

    @classmethod
    def of(cls, task: Task) -> "Space":
        """The choices for a task. Shares that the budget rules out are cut off."""
        return cls(tuple(kind.of(task) for kind in _offered()))

    def __getattr__(self, name: str):
        for part in vars(self).get("choices", ()):
            if name in _names(part):
                return getattr(part, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        ranked = sorted(self.choices, key=lambda part: part.place)
        return f"Space({', '.join(f'{name}={getattr(part, name)!r}' for part in ranked for name in _names(part))})"

    @property
    def distributions(self) -> dict:
        """Name -> Optuna's distribution of it."""
        ranked = sorted(self.choices, key=lambda part: part.place)
        return {name: one for part in ranked for name, one in part.distributions.items()}

    def steps(self, point: Mapping[str, Any]) -> tuple[Step, ...]:
        """The strategy of a point, a value for each name in `distributions`."""
        return tuple(step for part in self.choices for step in part.steps(point))


def _offered() -> list[type[Choices]]:
    """The choices of all kinds of steps, in the order of a strategy."""
    return [kind.choices for kind in kinds() if kind.choices is not None]


def _names(part: Choices) -> list[str]:
    return [field.name for field in dataclasses.fields(part)]
