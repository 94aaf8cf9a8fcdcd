"""With which whole numbers of a configuration a class makes a layer of given weights."""

import itertools
from collections.abc import Callable, Iterator

Path = tuple[str | int, ...]
Shapes = tuple[tuple[int, ...], ...]
# Entries of a layer's configuration that say nothing of its sizes.
_OTHERS = {"name", "trainable", "dtype", "build_config", "seed"}
_TRIALS = 200


def numbers_in(config, path: Path = ()) -> dict[Path, int]:
    """The positive whole numbers of a configuration by their place, those of configurations within too."""
    if isinstance(config, bool):
        return {}
    if isinstance(config, int):
        return {path: config} if config > 0 else {}
    found: dict[Path, int] = {}
    pairs = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in pairs:
        if key not in _OTHERS:
            found |= numbers_in(value, (*path, key))
    return found


def with_numbers(config, numbers: dict[Path, int], path: Path = ()):
    """A copy of a configuration with these numbers in their places."""
    if path in numbers:
        return numbers[path]
    if isinstance(config, dict):
        return {key: with_numbers(value, numbers, (*path, key)) for key, value in config.items()}
    if isinstance(config, list):
        return [with_numbers(value, numbers, (*path, i)) for i, value in enumerate(config)]
    return config


def fitting(
    config, before: Shapes, wanted: Shapes, shapes: Callable[[object, bool], Shapes | None]
) -> Iterator[dict[Path, int]]:
    """The numbers to change in a configuration so that the weights have the wanted shapes, few changes first.

    Which numbers a size follows is seen by trying each with another value. A size follows a number as a multiple of
    it, as a sum with it, or as its product with others; where several numbers fit, all are given, for other checks.

    Args:
        before: the shapes by `config` on the inputs of before.
        shapes: (configuration, whether on the inputs of now) -> the shapes of its weights; None where it makes none.
    """
    as_before = shapes(config, True)
    if as_before == wanted:
        yield {}
    if _ranks(before) != _ranks(wanted):
        return
    # What other inputs alone change is no change by a number: both are looked at.
    starts = [before, as_before] if as_before is not None and _ranks(as_before) == _ranks(wanted) else [before]
    sizes = [list(zip(_flat(start), _flat(wanted), strict=True)) for start in starts]
    choices: dict[Path, list[int]] = {}
    for path, value in numbers_in(config).items():
        follow = _followers(config, path, value, before, shapes)
        changed = {
            (a, b) for pairs in sizes for i, (a, b) in enumerate(pairs) if a != b and (follow is None or i in follow)
        }
        found = {value * b // a for a, b in changed if value * b % a == 0} | {value + b - a for a, b in changed}
        found |= {n for _, b in changed for n in range(1, min(value, b)) if b % n == 0}  # one factor of several
        found = {number for number in found if number > 0 and number != value}
        if found:
            choices[path] = sorted(found)
    tried = 0
    for count in range(1, len(choices) + 1):
        for paths in itertools.combinations(choices, count):
            for values in itertools.product(*(choices[path] for path in paths)):
                tried += 1
                if tried > _TRIALS:
                    return
                numbers = dict(zip(paths, values, strict=True))
                if shapes(with_numbers(config, numbers), True) == wanted:
                    yield numbers


def _followers(config, path: Path, value: int, before: Shapes, shapes) -> set[int] | None:
    """The places of the sizes that follow a number; None where no other number can be tried."""
    for other in (value + 1, 2 * value, 3 * value, value - 1):
        made = shapes(with_numbers(config, {path: other}), False) if other > 0 else None
        if made is None:
            continue
        if _ranks(made) != _ranks(before):
            return set()  # it changes what weights there are, such as a number of layers
        return {i for i, (a, b) in enumerate(zip(_flat(made), _flat(before), strict=True)) if a != b}
    return None


def _ranks(shapes: Shapes) -> list[int]:
    return [len(shape) for shape in shapes]


def _flat(shapes: Shapes) -> list[int]:
    return [size for shape in shapes for size in shape]
