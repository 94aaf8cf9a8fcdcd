"""The samples that a recipe names, and those that stand in where it names none."""

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from tfstruct.convert.export import Signature
from tfstruct.convert.ports import Port
from tfstruct.convert.recipe import Recipe
from tfstruct.reporting.tables import shape as sizes
from tfstruct.samples import Sample, Samples, open_samples, require_numbers

RANDOM = "random inputs (no data was given)"  # where samples come from


def opened(source, signature: Signature, recipe: Recipe, limit: int | None) -> Samples:
    if isinstance(source, Samples):
        return source
    return open_samples(source, signature.inputs, labels=recipe.labels, preprocess=recipe.preprocess, limit=limit)


def peek(recipe: Recipe, signature: Signature) -> None:
    """Reads one sample of each source that can be read again: seconds of conversion are lost on bad data."""
    for source in (recipe.calibration, recipe.verification):
        if source is not None:
            data = opened(source, signature, recipe.replace(labels=None) if not is_key(recipe.labels) else recipe, 1)
            if data.reiterable:
                data.take(1)


def is_key(labels) -> bool:
    """True if `labels` names a key, feature or column of the data, not a file or an array."""
    return isinstance(labels, str) and not os.path.exists(labels)


def batched(samples: Iterable[Sample], size: int | None) -> Iterator[dict[str, np.ndarray]]:
    """Dicts by input name with a batch axis: one sample, or as many as the file asks, the last filled up."""
    stream = iter(samples)
    while group := list(itertools.islice(stream, size or 1)):
        group += group[-1:] * ((size or 1) - len(group))
        yield {name: np.stack([s.inputs[name] for s in group]) for name in group[0].inputs}


def random_samples(
    signature: Signature, count: int, seed: int = 0, ranges: Mapping[str, tuple[float, float]] | None = None
) -> list[Sample]:
    """Values for float inputs, even ones where `ranges` knows between what they lie, else normal ones; zeros and ones
    for integers; open dimensions become 8."""
    require_numbers(signature.inputs)
    rng = np.random.default_rng(seed)

    def draw(spec):
        usual = signature.sizes.get(spec.name, (8,) * len(spec.shape))
        shape = tuple(n if d is None else d for d, n in zip(spec.shape, usual, strict=True))
        ends = (ranges or {}).get(spec.name)
        values: np.ndarray
        if "float" in spec.dtype:
            values = rng.normal(size=shape) if ends is None else rng.uniform(*ends, shape)
        else:
            values = rng.integers(0, 2, shape)
        return values.astype(spec.dtype)

    return [Sample({s.name: draw(s) for s in signature.inputs}, None) for _ in range(count)]


def verification_samples(
    recipe: Recipe, signature: Signature, kept: list[Sample], count: int
) -> tuple[list[Sample] | Samples, str]:
    """What a file is compared on, and where that is from; `kept` are calibration samples that are held already, `count`
    is how many of others are taken."""
    if recipe.verification is not None:
        data = opened(recipe.verification, signature, recipe, None)
        return data, data.source
    if kept:
        return kept, f"the first {len(kept)} calibration samples"
    if recipe.calibration is not None:
        data = opened(recipe.calibration, signature, recipe, count)
        return data, f"the first samples of {data.source}"
    return random_samples(signature, 8, ranges=recipe.ranges), RANDOM


def first_of(samples: list[Sample] | Samples, kept: list[Sample], limits: tuple[int, int], count: int) -> list[Sample]:
    """A few of the samples that were compared; of the calibration samples if the former cannot be read twice.
    `count` is held within the limits."""
    count = min(max(count, limits[0]), limits[1])
    if isinstance(samples, list):
        return samples[:count]
    return samples.take(count) if samples.reiterable else kept[:count]


def one_batch(kept: list[Sample], signature: Signature, recipe: Recipe) -> dict[str, np.ndarray]:
    """Inputs of one call, to time it."""
    samples = kept or random_samples(signature, 1, ranges=recipe.ranges)
    return next(iter(batched(samples[:1], signature.batch)))


def open_shapes(inputs: Sequence[Port], batch: Mapping[str, np.ndarray]) -> str:
    """The shapes of a batch in words, where the file leaves some open; else ""."""
    if not any(None in port.shape for port in inputs):
        return ""
    return ", ".join(f"{port.name} {sizes(batch[port.name].shape)}" for port in inputs)
