"""Samples that nothing trains on and no candidate is chosen by: what is decided within a strategy is judged on them."""

import dataclasses
import functools

import keras
import numpy as np

from tfstruct.analyze.losses import loss_function, slices
from tfstruct.compression.dataset import Examples, Stream
from tfstruct.compression.objective import Objective
from tfstruct.graph.layer_tree import states_kept

_SHARE, _LEAST, _MOST = 12, 16, 1024  # one sample in 12 is held out, if that makes 16, and 1,024 at most
_BATCH = 128


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Samples to judge models by.

    Attributes:
        examples: the samples.
        aim: what is trained for.
        teacher: the original model, which says what is right where there are no labels.
        seen: whether training sees them too, as a stream cannot be split.
    """

    examples: Examples
    aim: Objective
    teacher: keras.Model
    seen: bool = False

    def __len__(self) -> int:
        return len(self.examples)

    def __str__(self) -> str:
        return f"{len(self)} samples that training sees too" if self.seen else f"{len(self)} held-out samples"

    def loss(self, model: keras.Model) -> float:
        """The loss of a model on the samples; without labels the squared distance to the outputs of the original, as a
        share of their squares."""
        return self.loss_of(outputs_of(model, self.examples))

    def loss_of(self, outputs) -> float:
        """The same, of outputs in the structure of the model's."""
        if self.aim.loss is None:
            theirs, ours = ([np.asarray(a, "float64") for a in keras.tree.flatten(x)] for x in (self.expected, outputs))
            pairs = zip(theirs, ours, strict=True)
            return float(np.mean([np.square(t - s).sum() / max(np.square(t).sum(), 1e-30) for t, s in pairs]))
        return float(loss_function(self.teacher, self.aim.loss, "", self.aim.weights)(self.examples.labels, outputs))

    @functools.cached_property
    def expected(self):
        """What the original says of the samples."""
        return outputs_of(self.teacher, self.examples)


def split(data: Examples | Stream, seed: int) -> tuple[Examples | Stream, Examples | None, bool]:
    """What is trained on, what is held out (None where that would be too few), and whether training sees it too.

    Args:
        seed: of the draw.
    """
    if isinstance(data, Stream):
        found = data.take(_MOST // 2)
        return data, (found if len(found) >= _LEAST else None), True
    count = min(len(data) // _SHARE, _MOST)
    if count < _LEAST:
        return data, None, False
    rows = np.sort(np.random.default_rng([seed, 7]).permutation(len(data))[:count])
    return data.without(rows), data.select(rows), False


def outputs_of(model: keras.Model, examples: Examples):
    """What a model says of samples, in inference: NumPy arrays in the structure of its outputs."""
    with states_kept(model):
        parts = [
            model(keras.tree.map_structure(lambda a, part=part: a[part], examples.x), training=False)
            for part in slices(len(examples), _BATCH)
        ]
    return keras.tree.map_structure(lambda *found: np.concatenate(list(map(np.asarray, found))), *parts)
