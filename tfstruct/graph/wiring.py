"""Who makes and who reads a tensor, and a model with some of its layers dropped or made anew."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
from keras import layers

from tfstruct.graph.call import Call
from tfstruct.graph.configured import again
from tfstruct.graph.new_shapes import for_new_shapes
from tfstruct.graph.rebuild import rewire
from tfstruct.graph.trace import Graph
from tfstruct.keras_internals.graph_nodes import operation_of


class Unfit(Exception):
    """Why an edit cannot be made here: the reason as it is told to the user."""


class Wiring:
    """A graph by its tensors and operations; nested models are seen through.

    Attributes:
        calls: by id of an operation, its calls.
        maker: by key of a tensor, the call that made it; the model's inputs have none.
        readers: by key of a tensor, the calls that read it, once for each time.
        outputs: keys of the model's own outputs.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.calls: dict[int, list[Call]] = {}
        self.maker: dict[int, Call] = {}
        self.readers: dict[int, list[Call]] = {}
        self.outputs = {x.key for x in graph.outputs}
        for call in graph.calls:
            self.calls.setdefault(id(call.op), []).append(call)
            self.maker.update({x.key: call for x in call.outputs})
            for x in call.inputs:
                self.readers.setdefault(x.key, []).append(call)
        held = {id(call.op): call.op for call in graph.calls}
        self._owners = Counter(id(v) for op in held.values() for v in {id(v): v for v in _weights(op)}.values())

    def operations(self) -> list[list[Call]]:
        """The calls of each operation, in order of execution."""
        return list(self.calls.values())

    def reader(self, call: Call) -> Call:
        """The one call that reads an operation's output.

        Raises:
            Unfit: several do, or the output is one of the model's.
        """
        (tensor,) = call.outputs
        found = self.readers.get(tensor.key, [])
        if tensor.key in self.outputs:
            raise Unfit(f"the output of `{call.path}` is an output of the model too")
        if len(found) != 1:
            names = ", ".join(f"`{x.path}`" for x in found) or "nothing"
            raise Unfit(f"`{call.path}` is read by {names}")
        return found[0]

    def check_owner(self, call: Call) -> None:
        """Raises Unfit where another layer uses the same weights."""
        if any(self._owners[id(v)] > 1 for v in _weights(call.op)):
            raise Unfit(f"`{call.path}` shares its weights with another layer")

    def inherited(self, call: Call, heir: Call) -> dict[str, str]:
        """The name that `heir` has to take so that an output of the model keeps its name when `call` goes.

        Raises:
            Unfit: `heir` would not make that output, or makes others too.
        """
        functional = self.graph.body.functional
        made = [x for x in functional.outputs if operation_of(x) is call.op]
        if not made or isinstance(functional.output, dict):
            return {}
        alone = len(self.calls[id(heir.op)]) == len(self.calls[id(call.op)]) == 1
        if not alone or heir.outputs[0].key != call.input.key or "/" in heir.path:
            raise Unfit(f"an output of the model is named after `{call.path}`, and `{heir.path}` cannot take the name")
        return {"name": call.op.name}

    def pair(self, second: Sequence[Call]) -> list[Call]:
        """The calls of the one operation whose outputs the calls of `second` read, and nobody else.

        Raises:
            Unfit: the operations do not always follow each other.
        """
        firsts = [self.maker[call.input.key] for call in second if call.input.key in self.maker]
        if len(firsts) < len(second):
            raise Unfit(f"`{second[0].path}` reads an input of the model")
        first = firsts[0]
        if any(x.op is not first.op for x in firsts) or len(self.calls[id(first.op)]) != len(firsts):
            raise Unfit(f"`{first.path}` and `{second[0].path}` do not always follow each other")
        for call, after in zip(firsts, second, strict=True):
            if len(call.outputs) != 1:
                raise Unfit(f"`{call.path}` has several outputs")
            if self.reader(call) is not after:
                raise Unfit(f"`{call.path}` and `{after.path}` do not always follow each other")
        return firsts


def _weights(op) -> list:
    return op.weights if isinstance(op, layers.Layer) else []


class Remake:
    """Layers that go and layers made anew, gathered before the model is."""

    def __init__(self, graph: Graph):
        self._graph = graph
        self._edits: dict[int, Callable] = {}
        self._values: list[tuple[layers.Layer, Mapping[str, np.ndarray] | Sequence[keras.Variable]]] = []

    def touched(self, op) -> bool:
        return id(op) in self._edits

    def edit(self, op, function: Callable) -> None:
        """`function(step, run, *args, **kwargs) -> outputs`, as `rewire` takes it."""
        self._edits[id(op)] = function

    def drop(self, op) -> None:
        """The operation hands on its first argument."""
        self.edit(op, lambda step, run, *args, **kwargs: [*args, *kwargs.values()][0])

    def replace(self, op, values: Mapping[str, np.ndarray] | None, config: Mapping[str, object] | None = None) -> None:
        """The layer is made again from its configuration with these entries; `values` by attribute, None copies."""
        layer = self.layer(op, values, config)
        self.edit(op, lambda step, run, *args, **kwargs: layer(*args, **kwargs))

    def layer(self, like, values: Mapping[str, np.ndarray] | None, config: Mapping[str, object] | None = None):
        """A new layer, whose weights get their values when the model is made."""
        layer = again(like, lambda own: {**for_new_shapes(own), **config} if config else own)
        layer.trainable = like.trainable
        self._values.append((layer, like.weights if values is None else values))
        return layer

    def model(self) -> keras.Model:
        made = rewire(self._graph, self._edits, [layer for layer, _ in self._values]).model
        for layer, values in self._values:
            if not layer.built:
                continue  # nothing calls it on the way to an output
            if isinstance(values, Mapping):
                own = ((getattr(layer, name), value) for name, value in values.items())
                pairs = [(w, np.asarray(value, "float64").reshape(w.shape)) for w, value in own]
            else:
                pairs = list(zip(layer.weights, map(keras.ops.convert_to_tensor, values), strict=True))
            assert len(pairs) == len(layer.weights)  # no initializer has run for others
            for variable, value in pairs:
                variable.assign(value)
        return made
