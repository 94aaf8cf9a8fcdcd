"""What a conversion starts from: `Source`, and the float file that one gives."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from tfstruct.convert.export import Signature
from tfstruct.convert.recipe import Recipe
from tfstruct.convert.verification import Verification, compare
from tfstruct.errors import ConversionError
from tfstruct.samples import Sample, TensorSpec

Layers = Mapping[str, tuple[str, ...]]
Ranges = dict[str, tuple[float, float]]
# Opens a stage of the conversion by its name, for its time and for who watches.
Stage = Callable[[str], contextlib.AbstractContextManager]


@dataclasses.dataclass(frozen=True)
class FloatFile:
    """A float `.tflite` file with readable tensor names.

    Attributes:
        content: the file, a step towards others (`file_writing.write_behind`).
        layers: tensor -> layers that it came from.
        inputs: with the shapes that the file has.
        outputs: names.
        batch: the batch size of the file; None is open.
        rewrites: a line for every layer that computes in another form.
    """

    content: bytes
    layers: dict[str, tuple[str, ...]]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    batch: int | None
    rewrites: tuple[str, ...] = ()


class Source(Protocol):
    """What is converted: its float file, and what it knows that the file does not say."""

    @property
    def name(self) -> str:
        """Of the model."""

    @property
    def parameters(self) -> int:
        """How many it has."""

    def signature(self, recipe: Recipe) -> Signature:
        """How to call it."""

    def completed(self, recipe: Recipe) -> contextlib.AbstractContextManager[Recipe]:
        """The recipe with what the source was trained for, as long as the context is open."""

    def check(self, recipe: Recipe) -> None:
        """Refuses names in a recipe that the source does not know."""

    def float_file(self, recipe: Recipe) -> FloatFile:
        """The file that quantizers start from."""

    def float16_file(self, recipe: Recipe) -> tuple[bytes, dict[str, tuple[str, ...]]]:
        """The file with weights of 16 bits, with the layers of its tensors."""

    def check_scale(self, signature: Signature, samples: Sequence[Sample], *, as_is: bool) -> list[str]:
        """Refuses samples of another scale than that of the training, and says where it cannot tell."""

    def ranges_of_layers(self, reference: bytes, layers: Layers, observed: Ranges, recipe: Recipe) -> Ranges:
        """Those of the recipe, which names layers, by tensor of the float file; else those observed."""

    def weight_limits(
        self, reference: bytes, layers: Layers, recipe: Recipe
    ) -> tuple[dict[str, np.ndarray], list[str]]:
        """See `trained.weight_limits`."""

    def said(self, recipe: Recipe) -> dict[str, Any]:
        """Fields of the report: where it comes from, layers that were opened and that stayed closed."""

    def described(self, recipe: Recipe) -> dict:
        """The recipe as plain data, for the report."""

    def sequences(self) -> tuple[list[Sample], str] | None:
        """What the file is compared on where its calls go on from each other, and where that is from; else None."""

    def at_other_sizes(
        self, recipe: Recipe, signature: Signature, content: bytes, layers: Layers, samples: Callable[[], list[Sample]]
    ) -> tuple:
        """The file compared at other sizes than those of the samples, where the recipe leaves some open."""

    def instead(self, recipe: Recipe, error: ConversionError) -> Recipe:
        """Another recipe, where one failed that the source itself has put something into.

        Raises:
            ConversionError: the one given, as it has not.
        """

    def tied(self, content: bytes, ranges: Ranges) -> Ranges:
        """Ranges of the float file, with one for tensors that have to have one."""

    def finished(self, content: bytes) -> bytes:
        """The file with what it says of itself.

        Raises:
            ConversionError: it is not as its source needs it.
        """

    def facts(self, content: bytes) -> dict[str, Any]:
        """Fields of the report that other sources have not."""

    def compare(
        self, signature: Signature, content: bytes, samples, source: str, progress: Callable[[int], None]
    ) -> Verification:
        """Compares the file with the source."""


class OfSamples:
    """What holds of a source whose samples do not depend on each other."""

    def described(self, recipe: Recipe) -> dict:
        return recipe.described()

    def sequences(self) -> tuple[list[Sample], str] | None:
        return None

    def at_other_sizes(
        self, recipe: Recipe, signature: Signature, content: bytes, layers: Layers, samples: Callable[[], list[Sample]]
    ) -> tuple:
        return ()

    def instead(self, recipe: Recipe, error: ConversionError) -> Recipe:
        raise error

    def tied(self, content: bytes, ranges: Ranges) -> Ranges:
        return ranges

    def finished(self, content: bytes) -> bytes:
        return content

    def facts(self, content: bytes) -> dict[str, Any]:
        return {}

    def compare(
        self, signature: Signature, content: bytes, samples, source: str, progress: Callable[[int], None]
    ) -> Verification:
        return compare(signature, content, samples, source, progress)
