"""What a model computes inside: values between regions recorded once, and the way from a region's output to the end."""

import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfstruct.analyze.losses import slices
from tfstruct.compression.alternatives.regions import Region, bodies_once
from tfstruct.graph import Call, Graph
from tfstruct.graph.layer_tree import states_kept
from tfstruct.graph.trace import Body
from tfstruct.keras_internals.graph_nodes import Node, inputs_and_masks, mask_of, set_mask

_IN_MEMORY = 1 << 29  # bytes; more goes to files
_BATCH = 64


class Activations:
    """Values of some tensors of a model for some samples: recorded in one pass, in memory or, where that is more than
    512 MiB, in files.

    Args:
        graph: of the model.
        inputs: an array an input.
        tensors: of which values are recorded, of the model or of nested models that are called once.
        folder: of the files.

    Attributes:
        inputs: as given.
    """

    def __init__(
        self,
        graph: Graph,
        inputs: Sequence[np.ndarray],
        tensors: Iterable[keras.KerasTensor],
        folder: pathlib.Path,
        limit: int = _IN_MEMORY,
    ):
        self.inputs = list(inputs)
        wanted = {id(x): x for x in tensors}
        self._values: dict[int, np.ndarray] = {}
        self._masks: dict[int, np.ndarray] = {}
        self._held = list(wanted.values())  # so that their ids stay their own
        once = {id(body.model) for body in bodies_once(graph)}
        count = len(self.inputs[0])
        with states_kept(graph.model):
            for part in slices(count, _BATCH):
                known: dict[int, tf.Tensor] = {}
                given = [tf.convert_to_tensor(x[part]) for x in self.inputs]
                _walk(graph.body, given, once, wanted, known)
                if not self._values:
                    self._make(known, count, folder, limit)
                for key, value in known.items():
                    self._values[key][part] = value.numpy()
                    if (mask := mask_of(value)) is not None:
                        self._masks.setdefault(key, np.ones((count, *mask.shape[1:]), bool))[part] = mask.numpy()

    def _make(self, known: Mapping[int, tf.Tensor], count: int, folder: pathlib.Path, limit: int) -> None:
        sizes = {key: math.prod(x.shape[1:]) * x.dtype.size * count for key, x in known.items()}
        for number, (key, x) in enumerate(known.items()):
            shape, dtype = (count, *x.shape[1:]), x.dtype.as_numpy_dtype
            if sum(sizes.values()) <= limit:
                self._values[key] = np.empty(shape, dtype)
            else:
                folder.mkdir(parents=True, exist_ok=True)
                file = folder / f"{number:04}.npy"
                self._values[key] = np.lib.format.open_memmap(file, "w+", dtype, shape)

    def __len__(self) -> int:
        return len(self.inputs[0])

    def of(self, x: keras.KerasTensor) -> np.ndarray:
        """The values of a tensor, a row a sample."""
        return self._values[id(x)]

    def batch(self, tensors: Iterable[keras.KerasTensor], part: slice) -> dict[int, tf.Tensor]:
        """By id, the values of tensors for some samples, with their masks."""
        found = {}
        for x in tensors:
            value = found[id(x)] = tf.convert_to_tensor(self._values[id(x)][part])
            if id(x) in self._masks:
                set_mask(value, tf.convert_to_tensor(self._masks[id(x)][part]))
        return found


class Tail:
    """What lies behind a region: from its output, and from what else is read there, to the outputs of the model.

    Attributes:
        side: tensors that are read besides the region's output.
    """

    def __init__(self, graph: Graph, region: Region):
        self._region, self._outputs = region, graph.body.functional.outputs
        self._changed = {id(x) for x in region.outputs}
        self.side: list[keras.KerasTensor] = []
        self._steps: list[tuple[Node, Body | None]] = []
        self._follow(graph.body)
        self._read(self._outputs)

    def _follow(self, body: Body) -> None:
        for node, step in body.steps:
            if isinstance(step, Body) and self._region.body.path.startswith(step.path):
                self._follow(step)
                ends = step.functional.outputs
                if any(id(x) in self._changed for x in ends):
                    self._steps.append((node, step))
                    self._read(ends)
                    self._changed |= {id(x) for x in node.outputs}
            elif any(id(x) in self._changed for x in node.input_tensors):
                self._steps.append((node, None))
                self._read(node.input_tensors)
                self._changed |= {id(x) for x in node.outputs}

    def _read(self, tensors: Iterable[keras.KerasTensor]) -> None:
        known = self._changed | {id(x) for x in self.side}
        for x in tensors:
            if id(x) not in known:
                known.add(id(x))
                self.side.append(x)

    def __call__(self, made: Sequence[tf.Tensor], side: Mapping[int, tf.Tensor]) -> list[tf.Tensor]:
        """The outputs of the model, flat.

        Args:
            made: what the region, or another in its place, makes.
            side: by id, the values of `side`.
        """
        known = {**side, **{id(x): value for x, value in zip(self._region.outputs, made, strict=True)}}
        for node, inside in self._steps:
            if inside is None:
                args, kwargs = node.arguments.fill_in(known)
                outputs = keras.tree.flatten(node.operation(*args, **kwargs))
            else:
                outputs = [known[id(x)] for x in inside.functional.outputs]
            known.update({id(x): value for x, value in zip(node.outputs, outputs, strict=True)})
        return [known[id(x)] for x in self._outputs]


def _walk(body: Body, values: Sequence[tf.Tensor], once: set[int], wanted: Mapping, found: dict) -> list[tf.Tensor]:
    """Runs a body; the values of tensors that are wanted go into `found`."""
    known: dict[int, tf.Tensor] = {id(x): y for x, y in zip(body.functional.inputs, values, strict=True)}
    found.update({key: value for key, value in known.items() if key in wanted})
    for node, step in body.steps:
        if isinstance(step, Call) or id(step.model) not in once:
            args, kwargs = node.arguments.fill_in(known)
            outputs = keras.tree.flatten(node.operation(*args, **kwargs))
        else:
            given, _ = inputs_and_masks(node.input_tensors, step.functional)
            outputs = _walk(step, [known[id(x)] for x in given], once, wanted, found)
        made = {id(x): value for x, value in zip(node.outputs, outputs, strict=True)}
        known.update(made)
        found.update({key: value for key, value in made.items() if key in wanted})
    return [known[id(x)] for x in body.functional.outputs]
