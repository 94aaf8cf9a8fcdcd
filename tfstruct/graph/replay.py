"""`Replay`: the calls of a graph on other inputs, nested models opened."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from tfstruct.graph.new_shapes import any_initializer
from tfstruct.graph.rebuild import Edit, _Rebuild, kept_by
from tfstruct.graph.trace import Body, Graph
from tfstruct.keras_internals.graph_nodes import inputs_and_masks


class Replay:
    """All calls of a graph made once more on other inputs, those of nested models one by one in their place; the caller
    makes a model of the results.

    Args:
        graph: from `trace`.
        edits: as `rewire` takes them, for operations alone.

    Example:
        >>> graph = tfstruct.graph.trace(convnet)
        >>> replay = tfstruct.graph.Replay(graph, {})
        >>> larger = keras.Input((24, 24, 3))
        >>> whole = keras.Model(larger, replay.outputs([larger]))
        >>> replay.copy_weights()
    """

    def __init__(self, graph: Graph, edits: Mapping[int, Edit]):
        self._graph = graph
        self._work = _Rebuild(graph, kept_by(graph, np.ones(graph.units.count, bool)), edits)

    def outputs(self, inputs: Sequence[keras.KerasTensor]) -> list[keras.KerasTensor]:
        """The model's outputs, flat, of these inputs, which stand in the model's order."""
        with any_initializer() as self._work.building:
            return self._made(self._graph.body, inputs)

    def copy_weights(self) -> None:
        """Gives the new layers the weights of the old ones."""
        self._work.copy_weights()

    def _made(self, body: Body, inputs: Sequence[keras.KerasTensor]) -> list[keras.KerasTensor]:
        tensors = {id(x): new for x, new in zip(body.functional.inputs, inputs, strict=True)}
        for node, step in body.steps:
            if isinstance(step, Body):
                given, _ = inputs_and_masks(node.input_tensors, step.functional)
                made = self._made(step, [tensors[id(x)] for x in given])
                tensors.update({id(x): y for x, y in zip(node.outputs, made, strict=True)})
            else:
                self._work.again(node, step, tensors)
        return [tensors[id(x)] for x in body.functional.outputs]
