"""What the converter computes ahead: constants, and sums and products with them that become part of a linear operator.

`tests/quantize/test_opened_twins.py` holds these rules against files that the converter writes.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfstruct.graph import Call, Channels, Graph, is_training_only
from tfstruct.graph.endings import activation_of
from tfstruct.graph.kernels import einsum_view
from tfstruct.graph.opening.parts import Constant, Weight, values_read
from tfstruct.graph.operation_traits import traits_of
from tfstruct.keras_internals.layer_parts import stored_weight

_PRODUCTS, _SUMS = ("multiply", "divide"), ("add", "subtract")
Readers = Mapping[int, Sequence[Call | None]]


@dataclasses.dataclass(frozen=True)
class Linear:
    """A call that multiplies what it reads with a constant kernel, and sums.

    Attributes:
        place: of the kernel among the operands; None where a layer holds it.
        order, shape: that show the kernel as (taps, inputs, outputs), see `Kernel`.
        axis: of the kernel, where it is the only one that is summed over, and the last one of what is read; else None.
        last: whether the channels that it makes are the last axis; else they are several axes.
        biased: whether the layer has a bias.
        convolves: whether it is a convolution.
    """

    call: Call
    place: int | None = None
    order: tuple[int, ...] = ()
    shape: tuple[int, int, int] = (0, 0, 0)
    axis: int | None = None
    last: bool = True
    biased: bool = False
    convolves: bool = False

    @property
    def channels(self) -> int | None:
        return self.call.outputs[0].shape[-1]


def absent(op) -> bool:
    """Whether the file has nothing for an operation: it hands on what it gets."""
    return is_training_only(op) or traits_of(op).moves == "identity"


def operands(call: Call) -> list:
    """The arguments that hold values, in their order: `Channels`, or an array."""
    given = keras.tree.flatten((call.node.arguments.args, call.node.arguments.kwargs))
    seen = {id(x): channels for x, channels in zip(call.node.arguments.keras_tensors, call.inputs, strict=True)}
    return [seen.get(id(x), x) for x in given]


def _weights(op) -> list:
    return getattr(op, "weights", [])


class Folding:
    """What of a traced model the file computes ahead.

    Attributes:
        constants: key of a tensor that no input of the model reaches -> its value now.
        linear: id of an operation -> how it is linear with a constant kernel.
        behind: ids of sums and products that become part of the linear operator in front of them.
        followed: ids of what these become part of: linear operations, and those of `behind` in front of others.
        ahead: ids of sums and products that become part of all operators that read them -> the place, among the
            operands, of the tensor that these read in the file.
        past: id of a linear operation -> sums and products with a constant in front of it that others read too, the
            nearest first, each with the place of the tensor among its operands: the file's operator reads that of the
            last one, and its kernel and bias hold the constants.
    """

    def __init__(self, graph: Graph, readers: Readers):
        self._readers = readers
        self._once = Counter(id(call.op) for call in graph.calls)
        self._makers = {tensor.key: call for call in graph.calls for tensor in call.outputs}
        self._lasting: set[int] = set()  # keys of constants without a weight in them
        self.constants: dict[int, np.ndarray] = {}
        for call in graph.calls:
            self._evaluate(call)
        calls: dict[int, list[Call]] = {}
        for call in graph.calls:
            calls.setdefault(id(call.op), []).append(call)
        self.linear = {key: found for key, every in calls.items() if (found := self._alike(every))}
        self.behind: set[int] = set()
        self.followed: set[int] = set()
        self._biased: set[int] = {key for key, one in self.linear.items() if one.biased}
        for key, one in self.linear.items():
            self._note_behind(one, calls[key])
        self.ahead: dict[int, int] = {}
        self.past: dict[int, list[tuple[Call, int]]] = {}
        for call in reversed(graph.calls):
            self._note_ahead(call)

    def constant_of(self, call: Call) -> tuple[int, np.ndarray, Channels] | None:
        """Of a sum or product of a tensor and a constant: the constant's place and value, and the tensor."""
        given = operands(call)
        values = [self.constants.get(x.key) if isinstance(x, Channels) else x for x in given]
        places = [i for i, value in enumerate(values) if value is not None]
        if len(given) != 2 or len(places) != 1 or not isinstance(given[1 - places[0]], Channels):
            return None
        try:
            return places[0], np.asarray(values[places[0]], np.float32), given[1 - places[0]]
        except (TypeError, ValueError):  # such as a text
            return None

    def lasts(self, call: Call, place: int) -> bool:
        """Whether a constant operand has no weight in it, so that it stays as it is."""
        given = operands(call)[place]
        return not isinstance(given, Channels) or given.key in self._lasting

    def constants_for(self, call: Call, first: Call) -> list[Call]:
        """The calls that make constants which a call reads and that come behind `first`, in order."""
        calls = [*dict.fromkeys(self._makers.values())]
        behind = {id(one) for one in calls[calls.index(first) + 1 :]}
        return [one for one in self.makers_of([call]) if id(one) in behind]

    def makers_of(self, calls: Sequence[Call]) -> list[Call]:
        """The other calls that make the constants which calls read, in order."""
        found: set[int] = set()
        left = [x for call in calls for x in values_read(call)]
        while left:
            tensor = left.pop()
            if tensor.key in self.constants:
                found.add(id(self._makers[tensor.key]))
                left += values_read(self._makers[tensor.key])
        given = set(map(id, calls))
        return [one for one in dict.fromkeys(self._makers.values()) if id(one) in found - given]

    def weights_in(self, key: int) -> list[Call]:
        """The calls of the weights that a constant is computed from."""
        call = self._makers.get(key)
        if call is None or isinstance(call.op, Weight):
            return [] if call is None else [call]
        return [one for tensor in values_read(call) for one in self.weights_in(tensor.key)]

    def now(self, call: Call, place: int):
        """The present value of the constant operand at a place, as a tensor that gradients pass through."""
        given = operands(call)[place]
        return self._tensor(given.key) if isinstance(given, Channels) else keras.ops.convert_to_tensor(given)

    def _tensor(self, key: int):
        call = self._makers[key]
        outputs = self._computed(call, self._tensor)
        return outputs[next(i for i, tensor in enumerate(call.outputs) if tensor.key == key)]

    def _computed(self, call: Call, value_of: Callable) -> list:
        """What a call makes of constants, which `value_of` gives by their keys."""
        if isinstance(call.op, (Weight, Constant)):
            return [call.op.call(None)]
        read, values = {tensor.key for tensor in values_read(call)}, {}
        for x, tensor in zip(call.node.arguments.keras_tensors, call.inputs, strict=True):
            # Only the shape of others counts.
            value = value_of(tensor.key) if tensor.key in read else np.zeros([n or 1 for n in tensor.shape])
            values[id(x)] = keras.ops.convert_to_tensor(value, x.dtype)
        args, kwargs = call.node.arguments.fill_in(values)
        return keras.tree.flatten(call.op(*args, **kwargs))

    def _evaluate(self, call: Call) -> None:
        op, read = call.op, values_read(call)
        known = bool(read) and all(tensor.key in self.constants for tensor in read)
        if not known and not isinstance(op, (Weight, Constant)):
            return
        made = map(keras.ops.convert_to_numpy, self._computed(call, self.constants.get))
        self.constants.update(zip((tensor.key for tensor in call.outputs), made, strict=True))
        if isinstance(op, Constant) or (known and {x.key for x in read} <= self._lasting and not _weights(op)):
            self._lasting.update(tensor.key for tensor in call.outputs)

    def fuses(self, call: Call) -> bool:
        """Whether a product with a constant is a FULLY_CONNECTED that holds a ReLU behind it."""
        linear = self.linear.get(id(call.op))
        activation = None if linear is None or linear.place is not None else activation_of(call.op)
        return linear is not None and linear.axis is not None and linear.last and activation is None

    def looks_up(self, call: Call) -> bool:
        """Whether a call reads rows of a table that is a constant of the file, by numbers that are not."""
        if self.is_constant(call):
            return False
        if traits_of(call.op).kernel == "table":
            return True
        given = operands(call)
        fixed = bool(given) and isinstance(given[0], Channels) and given[0].key in self.constants
        return fixed and type(call.op).__name__ == "Take"

    def table_of(self, call: Call):
        """The table of such a call, as a tensor."""
        if traits_of(call.op).kernel == "table":
            return tf.convert_to_tensor(stored_weight(call.op, "embeddings").value)
        return self.now(call, 0)

    def computed_ahead(self, call: Call) -> bool:
        """Whether the file has no operator for a call but those that read it."""
        return id(call.op) in self.ahead or self.is_constant(call)

    def is_constant(self, call: Call) -> bool:
        return all(tensor.key in self.constants for tensor in call.outputs)

    def _alike(self, calls: list[Call]) -> Linear | None:
        """How an operation is linear, the same way in each of its calls."""
        first, *others = map(self._linear, calls)
        same = first and all(other and dataclasses.replace(other, call=first.call) == first for other in others)
        return first if same else None

    def _linear(self, call: Call) -> Linear | None:
        traits = traits_of(call.op)
        if self.is_constant(call):
            return None
        if traits.kernel in ("conv", "depthwise", "dense"):
            axis = 0 if traits.kernel == "dense" else None
            first = getattr(call.op, "data_format", "channels_last") == "channels_first"
            plain = activation_of(call.op) is None and not first
            return Linear(call, axis=axis, last=plain, biased=call.op.use_bias, convolves=axis is None)
        if traits.kernel == "einsum":
            left, made = call.op.equation.replace(" ", "").split("->")
            data, weight = left.split(",")
            return self._einsum(call, None, data, weight, made, call.op.bias is not None)
        if not traits.multiplies:
            return None
        given = operands(call)
        tensors = [x for x in given if isinstance(x, Channels)]
        fixed = [x for x in tensors if x.key in self.constants]
        if len(tensors) != 2 or len(fixed) != 1:
            return None
        place = next(i for i, x in enumerate(tensors) if x is fixed[0])
        name = type(call.op).__name__
        if name == "Einsum":
            left, made = call.op.subscripts.replace(" ", "").split("->")
            weight = left.split(",")[place]
            return self._einsum(call, place, left.split(",")[1 - place], weight, made, False)
        if name != "Matmul" or place == 0 or fixed[0].rank != 2:
            return None
        inputs, outputs = self.constants[fixed[0].key].shape
        return Linear(call, 1, (0, 1), (1, inputs, outputs), axis=0)

    def _einsum(self, call: Call, place, data: str, weight: str, made: str, biased: bool) -> Linear | None:
        data, weight, made = (part.replace("...", "") for part in (data, weight, made))
        shape = call.op.kernel.shape if place is None else self._constant_operand(call, place).shape
        sizes, order = einsum_view(f"{data},{weight}->{made}", shape)
        taps = [i for i, axis in enumerate(weight) if axis in data and axis in made]
        inputs = [i for i, axis in enumerate(weight) if axis not in made]
        outputs = "".join(axis for axis in weight if axis in made and axis not in data)
        if taps or not outputs or not made.endswith(outputs):
            return None  # no FULLY_CONNECTED
        one = len(inputs) == 1 and data.endswith(weight[inputs[0]])
        plain = len(outputs) == 1 and (place is not None or activation_of(call.op) is None)
        return Linear(call, place, order, sizes, inputs[0] if one else None, plain, biased)

    def _constant_operand(self, call: Call, place: int) -> np.ndarray:
        return self.constants[[x for x in operands(call) if isinstance(x, Channels)][place].key]

    # Behind

    def _note_behind(self, linear: Linear, calls: list[Call]) -> None:
        """Notes what follows in each of the calls."""
        if activation_of(linear.call.op) is not None and linear.place is None:
            return
        front = linear.call.op
        for followers in zip(*(self._followers(linear, call) for call in calls), strict=False):
            after = followers[0].op
            if any(one.op is not after for one in followers):
                return
            self.behind.add(id(after))
            self.followed.add(id(front))
            if traits_of(after).joins == "add":
                self._biased.add(id(linear.call.op))
            front = after

    def _followers(self, linear: Linear, call: Call) -> Iterator[Call]:
        while True:
            readers = self._all_readers(call)
            after = readers[0] if len(readers) == 1 else None
            if after is None or not self._follows(linear, after, call):
                return
            yield after
            call = after

    def _follows(self, linear: Linear, after: Call, front: Call) -> bool:
        kind, found = traits_of(after.op).joins, self.constant_of(after)
        if found is None or self._once[id(after.op)] != self._once[id(linear.call.op)]:
            return False
        place, value, _ = found
        if kind in ("divide", "subtract") and place != 1:
            return False
        if after.outputs[0].shape != front.outputs[0].shape:
            return False
        shape, made = value.shape, front.outputs[0].shape
        by_channel = linear.last and bool(shape) and value.size == shape[-1] == linear.channels
        if kind in _PRODUCTS:
            flat = len(shape) <= 1 or not (linear.convolves and len(made) == 3)
            return value.size == 1 or (by_channel and flat)
        if kind == "subtract" and not linear.convolves:
            return False
        heads = 1 < len(shape) < len(made) and shape == tuple(made[-len(shape) :])
        several = not linear.last and not linear.convolves and heads and value.size == linear.shape[2]
        return kind in _SUMS and (by_channel or several)

    # Ahead

    def _note_ahead(self, call: Call) -> None:
        kind, found = traits_of(call.op).joins, self.constant_of(call)
        if found is None or self._once[id(call.op)] > 1 or id(call.op) in self.behind or self.is_constant(call):
            return
        place, value, x = found
        if (kind == "divide" and place != 1) or call.outputs[0].shape != x.shape:
            return
        scalar = kind in _PRODUCTS and value.ndim == 0
        # Products have one axis; sums may have others of size 1 before it.
        by_channel = value.ndim > 0 and value.size == value.shape[-1] == x.shape[-1]
        if not scalar and not (by_channel and (kind == "add" or value.ndim == 1)):
            return
        written = scalar and kind == "multiply" and not isinstance(operands(call)[place], Channels)
        behind = self._all_readers(call)
        taken = [one for one in behind if one is not None and self._takes(one, kind, written)]
        if behind and len(taken) == len(behind):
            self.ahead[id(call.op)] = 1 - place
            return
        for one in filter(None, behind):
            beyond = [key for key, (*_, (last, _)) in self.past.items() if last is one]
            for linear in [one] if one in taken else [self.linear[key].call for key in beyond]:
                if id(linear.op) in self.linear and self._takes(linear, kind, written):
                    self.past.setdefault(id(linear.op), []).append((call, 1 - place))

    def _takes(self, reader: Call | None, kind: str, written: bool) -> bool:
        if reader is None:
            return False
        key = id(reader.op)
        if key in self.ahead:
            return kind != "subtract"
        linear = self.linear.get(key)
        if linear is None or linear.axis is None or self._once[key] > 1:
            return False
        if kind == "add" or (written and linear.place is None):
            return key in self._biased
        return kind in _PRODUCTS

    def factors(self, linear: Linear, past: bool = True) -> tuple | None:
        """(c, b), where a linear operation reads x c + b and its operator x; None where nothing is ahead of it.

        Args:
            past: whether it reads past a sum that others read.
        """
        fixed = self.constants
        call = self._maker_of(next(x for x in values_read(linear.call) if x.key not in fixed))
        c, b, found = 1.0, 0.0, False
        passed = {id(one.op): place for one, place in self.past.get(id(linear.call.op), ())} if past else {}
        while call is not None and (place := passed.get(id(call.op), self.ahead.get(id(call.op)))) is not None:
            found = True
            value = keras.ops.cast(self.now(call, 1 - place), "float32")
            value = keras.ops.reshape(value, (-1,)) if len(value.shape) > 1 else value
            kind = traits_of(call.op).joins
            if kind == "add":
                b = b + c * value
            else:
                c = c * (1.0 / value if kind == "divide" else value)
            call = self._maker_of(operands(call)[place])
        return (c, b) if found else None

    def _maker_of(self, tensor: Channels) -> Call | None:
        """The call that made a tensor, behind those that are absent from the file."""
        call = self._makers.get(tensor.key)
        while call is not None and absent(call.op):
            call = self._makers.get(call.input.key)
        return call

    def _all_readers(self, call: Call) -> list[Call | None]:
        found: list[Call | None] = []
        for reader in self._readers.get(call.outputs[0].key, ()):
            if reader is not None and absent(reader.op):
                found += self._all_readers(reader)
            else:
                found.append(reader)
        return found
