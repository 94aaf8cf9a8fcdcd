"""Numbers in place of the sizes that the inputs of a model leave open."""

import dataclasses
import itertools

import keras

# What an open size is in two recordings and in the comparison at the end: numbers that occur nowhere else, so that it
# is known what follows one size. The batch comes first.
_SIZES = ((2, 3, 4), (8, 12, 9), (16, 24, 11), (10, 14, 13), (20, 28, 15), (18, 26, 17))
_LENGTH = 64  # the example of a size to give


@dataclasses.dataclass(frozen=True)
class KnownSizes:
    """The inputs of a model; open sizes of one axis are alike in all inputs, or all are different."""

    structure: object
    alike: bool

    def known(self, which: int, batch: int = 0):
        """The inputs with all sizes known: of the first, the second recording, or of the comparison; with another open
        batch where one is given."""
        numbers = itertools.count(1)

        def size(axis: int) -> int:
            place = axis if self.alike else next(numbers)
            return _SIZES[1 + (place - 1) % (len(_SIZES) - 1)][which]

        def known(x):
            rest = [size(i) if n is None else n for i, n in enumerate(x.shape[1:], 1)]
            return keras.KerasTensor(
                ((batch or _SIZES[0][which]) if x.shape[0] is None else x.shape[0], *rest), x.dtype
            )

        return keras.tree.map_structure(known, self.structure)

    def remedy(self) -> str:
        """What to give where a layer needs to know a size that is open; empty where none is open."""
        if not any(None in x.shape[1:] for x in keras.tree.flatten(self.structure)):
            return ""

        def shape(x):
            return tuple(_LENGTH if n is None and i else n for i, n in enumerate(x.shape))

        shapes = keras.tree.map_structure(shape, self.structure)
        return f"; where that is one that `inputs` leave open, give it, such as inputs={shapes}"
