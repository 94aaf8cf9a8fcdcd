"""`Part`: what is decided on its own; `Alternative`: one way for it; `Conflict`: two that do not go together."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from tfstruct.errors import RecipeError

AS_IT_IS = "as it is"
At = tuple[str, int]  # the name of a part, and the place of one of its alternatives


@dataclasses.dataclass(frozen=True)
class Alternative:
    """One way in which a part may be.

    Attributes:
        name: unique within its part, such as `"24 channels"`.
        settings: plain data (JSON), of the kind of step that offers it; empty for the part as it is.
    """

    name: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "settings", frozen(self.settings))

    def __hash__(self):
        return hash(self.name)

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        return {"name": self.name, "settings": dict(self.settings)}


@dataclasses.dataclass(frozen=True)
class Part:
    """What is decided on its own: exactly one of its alternatives is chosen.

    Attributes:
        name: unique, such as `"width of conv"`, `"form of conv"`, `"block add"`, `"bits of dense"`.
        kind: of the step that offers it and carries it out.
        alternatives: the first is the part as it is.
        layers: paths of the layers that change.

    Raises:
        RecipeError: the first alternative has settings, or two have one name.

    Example:
        >>> from tfstruct.compression.alternatives.alternative import Alternative, Part
        >>> part = Part.of("block add", "drop_blocks", [Alternative("dropped", {"block": "add"})], ["conv"])
        >>> [one.name for one in part.alternatives]
        ['as it is', 'dropped']
    """

    name: str
    kind: str
    alternatives: tuple[Alternative, ...]
    layers: tuple[str, ...]

    def __post_init__(self):
        names = [one.name for one in self.alternatives]
        if not names or self.alternatives[0].settings:
            raise RecipeError(f"The first alternative of {self.name} must be the part as it is, without settings.")
        if len({*names}) < len(names):
            raise RecipeError(f"The alternatives of {self.name} must have different names. Received: {names}.")

    def __hash__(self):
        return hash(self.name)

    @classmethod
    def of(cls, name: str, kind: str, others: Iterable[Alternative], layers: Iterable[str]) -> "Part":
        """A part that may stay as it is, or be one of others."""
        return cls(name, kind, (Alternative(AS_IT_IS), *others), tuple(layers))

    def index(self, name: str) -> int:
        """The place of the alternative of a name.

        Raises:
            RecipeError: there is none.
        """
        names = [one.name for one in self.alternatives]
        if name not in names:
            raise RecipeError(f"{self.name} may be {', '.join(names)}. Received: {name!r}.")
        return names.index(name)

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        alternatives = [one.to_dict() for one in self.alternatives]
        return {"name": self.name, "kind": self.kind, "alternatives": alternatives, "layers": list(self.layers)}

    @classmethod
    def from_dict(cls, data: Mapping) -> "Part":
        alternatives = tuple(Alternative(**one) for one in data["alternatives"])
        return cls(data["name"], data["kind"], alternatives, tuple(data["layers"]))


@dataclasses.dataclass(frozen=True)
class Conflict:
    """Two alternatives that cannot both be chosen.

    Attributes:
        one, other: the name of a part, and the place of the alternative in it.
        why: in words.
    """

    one: tuple[str, int]
    other: tuple[str, int]
    why: str = ""

    def excludes(self, picked: Mapping[str, int]) -> bool:
        """Whether a choice, by name of a part, has both."""
        return all(picked.get(part) == place for part, place in (self.one, self.other))


def frozen(value: Any) -> Any:
    """Settings with tuples for lists, which JSON gives back."""
    if isinstance(value, Mapping):
        return {name: frozen(one) for name, one in value.items()}
    return tuple(map(frozen, value)) if isinstance(value, (list, tuple)) else value
