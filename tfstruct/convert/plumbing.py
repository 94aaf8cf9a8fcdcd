"""Casts, one-hot codes and reversals of a float file, as quantizers take them.

A mask that becomes a factor, pixels in uint8, ids that come in as float: TensorFlow Lite writes CAST, which no
quantizer gives integers. What can be is written without one, and no index is rounded; what remains computes in float
between its integers.
"""

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping

import numpy as np

from tfstruct.convert import flatbuffer
from tfstruct.convert.file_writing import write_behind
from tfstruct.convert.flatbuffer import schema
from tfstruct.tflite_operators import traits_of

_CHOICES = ("select", "maximum", "minimum")
_FLOAT, _INT32, _BOOL = schema.TensorType.FLOAT32, schema.TensorType.INT32, schema.TensorType.BOOL
_INTEGERS = tuple(
    getattr(schema.TensorType, name) for name in ("UINT8", "INT8", "UINT16", "INT16", "UINT32", "INT32", "INT64")
)
# Their values are integers with a scale of 1.
_EIGHT_BITS = {schema.TensorType.UINT8: (0.0, 255.0), schema.TensorType.INT8: (-128.0, 127.0)}


@dataclasses.dataclass(frozen=True)
class Recast:
    """A float file with fewer casts.

    Attributes:
        content: the file.
        ranges: (low, high) of inputs by name, whose type says it.
        exact: tensors that stay float, as indices are made of their values: rounded, they were others. What else is
            sliced from the same input is quantized behind that, with its own range.
        changes: a line for every change that who feeds the file sees.
    """

    content: bytes
    ranges: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    exact: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()


def recast(content: bytes) -> Recast:
    """Rewrites the casts of a float file, and what is as good as one.

    - A cast of true and false to numbers is a SELECT_V2 between 1 and 0; a ONE_HOT of floats an EQUAL and a SELECT_V2.
    - A REVERSE_V2 is a GATHER, which moves integers. A SQUARE is a MUL, and a NEG one with -1: those have no kernel.
    - An integer input that is only cast to float is a float input, which is quantized: 8-bit pixels with a scale of 1.
    - A float input that is only cast to integers is an int32 input.
    - A float input that is cast to integers besides stays float, with what only passes its values on, and with what
      is computed of it before the cast, as in `floor(10 * x)`: all but the products of kernels.
    """
    model = flatbuffer.read(content)
    graph = _Graph(model)
    graph.select_in_place_of_casts()
    graph.gather_in_place_of_reverse()
    graph.products_in_place_of_functions()
    ranges: dict[str, tuple[float, float]] = {}
    changes: list[str] = []
    for index in map(int, list(graph.main.inputs)):
        tensor = graph.main.tensors[index]
        name, before = tensor.name.decode(), tensor.type
        passed, ends = graph.reach(index)
        if any(i in graph.outputs for i in passed) or not ends:
            continue
        if before in _INTEGERS and all(graph.is_cast(op, to=_FLOAT) for op in ends):
            graph.retype(passed, ends, _FLOAT)
            if before in _EIGHT_BITS:
                ranges[name] = _EIGHT_BITS[before]
            changes.append(f"input {name} quantized, {flatbuffer.dtype_name_of(before)} in the model")
        elif before == _FLOAT and graph.is_read_as_integers(ends):
            graph.retype(passed, ends, _INT32)
            changes.append(f"input {name} int32, which the model casts to integers")
    exact = [graph.main.tensors[i].name.decode() for i in graph.read_by_indices()]
    changes += [f"input {name} float32, as integers are made of it" for name in exact if name in graph.input_names]
    return Recast(write_behind(model), ranges, tuple(exact), tuple(changes))


def read_integers(model: schema.ModelT) -> None:
    """Lets ARG_MAX, ARG_MIN and SHAPE of a quantized file read integers of 8 bits: the largest integer is the largest
    value, and as many."""
    graph = _Graph(model)
    made = {int(i): op for op in graph.main.operators for i in op.outputs}
    changed = False
    for op in graph.main.operators:
        reads_any = graph.name(op) in ("ARG_MAX", "ARG_MIN") or graph.name(op) == "SHAPE"
        source = made.get(int(op.inputs[0])) if reads_any else None
        if source is not None and graph.name(source) == "DEQUANTIZE":
            stored = int(source.inputs[0])
            if graph.main.tensors[stored].type == schema.TensorType.INT8:
                op.inputs = [stored, *map(int, op.inputs[1:])]
                changed = True
    if changed:
        graph.drop_unread("DEQUANTIZE")


def shared_choices(content: bytes, ranges: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """The ranges as TensorFlow's quantizer needs them: it gives what a choice picks from the range of what it picks.

    Where others read a value besides, as `x` in `where(x > 0, x, 0.1 * x)`, that would clip it for them too: there the
    choice has a range that holds both.
    """
    graph = _Graph(flatbuffer.read(content))
    out = dict(ranges)
    for op in graph.main.operators:
        if traits_of(graph.name(op)).joins not in _CHOICES:
            continue
        live = [int(i) for i in op.inputs if graph._moves(int(i)) and len(list(graph.readers(int(i)))) > 1]
        names = [graph.main.tensors[i].name.decode() for i in (*live, *map(int, op.outputs))]
        if live and all(name in out for name in names):
            pairs = [out[name] for name in names]
            out.update(dict.fromkeys(names, (min(low for low, _ in pairs), max(high for _, high in pairs))))
    return out


def read_floats(model: schema.ModelT) -> None:
    """Lets operators in float of a quantized file read floats that are there, not what rounding makes of them."""
    graph = _Graph(model)
    made = {int(i): op for op in graph.main.operators for i in op.outputs}
    plain: dict[int, int] = {}
    for op in graph.main.operators:
        quantize = made.get(int(op.inputs[0])) if graph.name(op) == "DEQUANTIZE" else None
        if quantize is not None and graph.name(quantize) == "QUANTIZE":
            source = int(quantize.inputs[0])
            if graph.main.tensors[source].type == _FLOAT and int(op.outputs[0]) not in graph.outputs:
                plain[int(op.outputs[0])] = source
    if not plain:
        return
    for op in graph.main.operators:
        op.inputs = [plain.get(int(i), int(i)) for i in op.inputs]
    for kind in ("DEQUANTIZE", "QUANTIZE"):
        graph.drop_unread(kind)


def integer_inputs(model: schema.ModelT, exact: Collection[str]) -> None:
    """Lets inputs of a quantized file take integers, but for those in `exact`: quantizers have one type for all."""
    graph = _Graph(model)
    moved: dict[int, int] = {}
    for index in map(int, graph.main.inputs):
        tensor, readers = graph.main.tensors[index], list(graph.readers(index))
        alone = len(readers) == 1 and graph.name(readers[0]) == "QUANTIZE" and index not in graph.outputs
        if tensor.type == _FLOAT and tensor.name.decode() not in exact and alone:
            moved[index] = int(readers[0].outputs[0])
            stored = graph.main.tensors[moved[index]]
            tensor.name, stored.name = graph._unique(tensor.name + b"/float"), tensor.name
    graph.main.operators = [op for op in graph.main.operators if int(op.outputs[0]) not in moved.values()]
    graph.main.inputs = [moved.get(int(i), int(i)) for i in graph.main.inputs]
    for signature in model.signatureDefs or []:
        for port in signature.inputs if signature.subgraphIndex == 0 else ():
            port.tensorIndex = moved.get(port.tensorIndex, port.tensorIndex)


def chained_choices(content: bytes, ranges: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """The ranges with one for every chain of SELECTs, which keeps a value or replaces it step by step.

    The state of a masked recurrent layer is such a value: with a range of its own for each step, it were rounded anew
    in every step that it is kept.
    """
    graph = _Graph(flatbuffer.read(content))
    chains: list[tuple[set[str], int]] = []
    for op in graph.main.operators:
        if traits_of(graph.name(op)).joins != "select":
            continue
        live = [t for t in (graph.main.tensors[i] for i in (*op.inputs[1:], *op.outputs)) if not graph._constant(t)]
        names = {t.name.decode() for t in live} & set(ranges)
        joined = [chain for chain in chains if chain[0] & names]
        chains = [chain for chain in chains if not chain[0] & names]
        chains.append((names.union(*(chain[0] for chain in joined)), 1 + sum(chain[1] for chain in joined)))
    out = dict(ranges)
    for names, count in chains:
        if count > 1:
            pairs = [ranges[name] for name in names]
            out.update(dict.fromkeys(names, (min(low for low, _ in pairs), max(high for _, high in pairs))))
    return out


class _Graph:
    """The main graph of a file that is edited."""

    def __init__(self, model: schema.ModelT):
        self.model, self.main = model, model.subgraphs[0]
        self.outputs = {int(i) for i in self.main.outputs}
        self.input_names = [self.main.tensors[i].name.decode() for i in self.main.inputs]

    def name(self, op: schema.OperatorT) -> str:
        return flatbuffer.operator_name(self.model, op)

    def readers(self, index: int) -> Iterator[schema.OperatorT]:
        return (op for op in self.main.operators if index in map(int, op.inputs))

    def reach(self, index: int) -> tuple[list[int], list[schema.OperatorT]]:
        """The tensors with the values of one, behind what only passes them on, and the other operators that read it."""
        passed = [index]
        ends: list[schema.OperatorT] = []
        for tensor in passed:
            for op in self.readers(tensor):
                if traits_of(self.name(op)).passes_on:
                    passed += [int(i) for i in op.outputs if int(i) not in passed]
                elif not any(op is other for other in ends):
                    ends.append(op)
        return passed, ends

    def read_by_indices(self) -> list[int]:
        """The float tensors of which integers are made without a kernel in between, from the inputs on."""
        made = {int(i): op for op in self.main.operators for i in op.outputs}
        inputs = set(map(int, self.main.inputs))
        found: dict[int, None] = {}
        for op in self.main.operators:
            source = int(op.inputs[0]) if len(op.inputs) else -1
            if not (self.is_cast(op, to=_INTEGERS) or self.name(op) == "BUCKETIZE") or not self._moves(source):
                continue
            way = [source]
            for index in way:
                own = made.get(index)
                if own is not None and traits_of(self.name(own)).contracts:
                    break
                way += [int(i) for i in (own.inputs if own else ()) if self._moves(int(i)) and int(i) not in way]
            else:
                passed = [i for index in way if index in inputs for i in self.reach(index)[0]]
                found |= dict.fromkeys(i for i in (*way, *passed) if i not in self.outputs)
        return list(found)

    def _moves(self, index: int) -> bool:
        """Whether a tensor holds floats that depend on the input."""
        tensor = self.main.tensors[index] if index >= 0 else None
        return tensor is not None and tensor.type == _FLOAT and not self._constant(tensor)

    def is_cast(self, op: schema.OperatorT, to: int | Iterable[int]) -> bool:
        if self.name(op) != "CAST":
            return False
        target = self.main.tensors[op.outputs[0]].type
        return target == to if isinstance(to, int) else target in to

    def is_read_as_integers(self, ends: Iterable[schema.OperatorT]) -> bool:
        """Whether operators cast a value to integers, some of them, or compare it with whole numbers."""
        casts = [self.is_cast(op, to=_INTEGERS) for op in ends]
        return any(casts) and all(cast or self.compares_integers(op) for cast, op in zip(casts, ends, strict=True))

    def compares_integers(self, op: schema.OperatorT) -> bool:
        """Whether a comparison is one with whole numbers."""
        if not traits_of(self.name(op)).compares:
            return False
        constants = [t for t in (self.main.tensors[i] for i in op.inputs) if self._constant(t)]
        values = [flatbuffer.constant(self.model, t) for t in constants]
        return len(values) == 1 and bool((values[0] == np.round(values[0])).all())

    def retype(self, passed: list[int], ends: list[schema.OperatorT], kind: int) -> None:
        """Gives tensors another type; casts to it are gone, and comparisons get constants of it."""
        for index in passed:
            self.main.tensors[index].type = kind
        gone: dict[int, int] = {}
        for op in ends:
            if self.is_cast(op, to=kind):
                gone[int(op.outputs[0])] = int(op.inputs[0])
                self.main.operators = [other for other in self.main.operators if other is not op]
            elif self.name(op) == "CAST":
                op.builtinOptions.inDataType = kind
            else:
                op.inputs = [self._as(i, kind) for i in map(int, op.inputs)]
        for op in self.main.operators:
            op.inputs = [gone.get(i, i) for i in map(int, op.inputs)]
        self._hand_out(gone)

    def _hand_out(self, gone: Mapping[int, int]) -> None:
        self.main.outputs = [gone.get(i, i) for i in map(int, self.main.outputs)]
        for signature in self.model.signatureDefs or []:
            for port in signature.outputs if signature.subgraphIndex == 0 else ():
                port.tensorIndex = gone.get(port.tensorIndex, port.tensorIndex)

    def drop_unread(self, kind: str) -> None:
        """Takes out the operators of a kind whose values nobody reads."""
        read = {int(i) for op in self.main.operators for i in op.inputs} | self.outputs
        self.main.operators = [op for op in self.main.operators if self.name(op) != kind or int(op.outputs[0]) in read]

    def _as(self, index: int, kind: int) -> int:
        tensor = self.main.tensors[index]
        if not self._constant(tensor) or tensor.type == kind:
            return index
        return self.add_constant(flatbuffer.constant(self.model, tensor).astype(np.int32), tensor.name, kind)

    def add_constant(self, value: np.ndarray | np.generic, name: bytes, kind: int) -> int:
        return flatbuffer.add_constant(self.model, self.main, np.asarray(value), self._unique(name), kind)

    def _unique(self, name: bytes) -> bytes:
        taken = {bytes(t.name) for t in self.main.tensors}
        candidate, n = name, 1
        while candidate in taken:
            candidate, n = name + b":%d" % n, n + 1
        return candidate

    def select_in_place_of_casts(self) -> None:
        made = {int(i): op for op in self.main.operators for i in op.outputs}
        operators = []
        for op in self.main.operators:
            if self.is_cast(op, to=_FLOAT):
                source = int(op.inputs[0])
                while source in made and self.name(made[source]) == "CAST":
                    source = int(made[source].inputs[0])
                if self.main.tensors[source].type == _BOOL:
                    operators.append(self._select(source, 1.0, 0.0, op))
                    continue
            elif self.name(op) == "ONE_HOT" and self.main.tensors[op.outputs[0]].type == _FLOAT:
                made_anew = self._one_hot(op)
                if made_anew:
                    operators += made_anew
                    continue
            operators.append(op)
        self.main.operators = operators
        self.drop_unread("CAST")

    def gather_in_place_of_reverse(self) -> None:
        for op in self.main.operators:
            if self.name(op) != "REVERSE_V2":
                continue
            source, axes = self.main.tensors[op.inputs[0]], self.main.tensors[op.inputs[1]]
            constant = self._constant(axes)
            places = [int(i) for i in flatbuffer.constant(self.model, axes, np.int32).ravel()] if constant else []
            size = -1 if len(places) != 1 else int(flatbuffer.shape_signature(source)[places[0]])
            if source.type != _FLOAT or size < 0:
                continue
            order = self.add_constant(np.arange(size, dtype=np.int32)[::-1], source.name + b"/order", _INT32)
            options = schema.GatherOptionsT()
            options.axis = places[0]
            kind = schema.BuiltinOptions.GatherOptions
            made = flatbuffer.new_operator(
                self.model, "GATHER", [int(op.inputs[0]), order], list(op.outputs), kind, options
            )
            self.main.operators = [made if other is op else other for other in self.main.operators]

    def products_in_place_of_functions(self) -> None:
        for op in self.main.operators:
            name, source = self.name(op), int(op.inputs[0]) if len(op.inputs) else -1
            if name not in ("SQUARE", "NEG") or self.main.tensors[source].type != _FLOAT:
                continue
            base = self.main.tensors[op.outputs[0]].name
            other = source if name == "SQUARE" else self.add_constant(np.float32(-1), base + b"/factor", _FLOAT)
            options = schema.BuiltinOptions.MulOptions, schema.MulOptionsT()
            made = flatbuffer.new_operator(self.model, "MUL", [source, other], list(op.outputs), *options)
            self.main.operators = [made if own is op else own for own in self.main.operators]

    def _constant(self, tensor: schema.TensorT) -> bool:
        return flatbuffer.is_constant(self.model, tensor)

    def _select(self, condition: int, yes, no, like: schema.OperatorT) -> schema.OperatorT:
        base = self.main.tensors[like.outputs[0]].name
        pair = [self.add_constant(np.array([v], np.float32), base + b"/constant", _FLOAT) for v in (yes, no)]
        options = schema.BuiltinOptions.SelectV2Options, schema.SelectV2OptionsT()
        return flatbuffer.new_operator(self.model, "SELECT_V2", [condition, *pair], list(like.outputs), *options)

    def _one_hot(self, op: schema.OperatorT) -> list[schema.OperatorT]:
        """indices == 0 .. depth - 1 between the two values; none where the axis is not the last."""
        indices, *settings = map(int, op.inputs)
        tensors = [self.main.tensors[i] for i in settings]
        target = self.main.tensors[op.outputs[0]]
        axis, rank = op.builtinOptions.axis, len(target.shape)
        if not all(self._constant(t) for t in tensors) or axis not in (-1, rank - 1):
            return []
        depth = int(flatbuffer.constant(self.model, tensors[0], np.int32).ravel()[0])
        yes, no = (float(flatbuffer.constant(self.model, t).ravel()[0]) for t in tensors[1:])
        source = self.main.tensors[indices]
        wide = np.int64 if source.type == schema.TensorType.INT64 else np.int32
        place = self.add_constant(np.int32(-1), target.name + b"/axis", _INT32)
        classes = self.add_constant(np.arange(depth, dtype=wide), target.name + b"/classes", source.type)
        column = self._add_tensor([*target.shape[:-1], 1], source.type, target)
        equal = self._add_tensor(list(target.shape), _BOOL, target)
        options = schema.BuiltinOptions
        return [
            flatbuffer.new_operator(
                self.model, "EXPAND_DIMS", [indices, place], [column], options.ExpandDimsOptions,
                schema.ExpandDimsOptionsT(),
            ),
            flatbuffer.new_operator(
                self.model, "EQUAL", [column, classes], [equal], options.EqualOptions, schema.EqualOptionsT()
            ),
            self._select(equal, yes, no, op),
        ]  # fmt: skip

    def _add_tensor(self, shape: list[int], kind: int, like: schema.TensorT) -> int:
        index = flatbuffer.add_tensor(self.main, shape, self._unique(like.name), kind)
        if like.shapeSignature is not None:
            self.main.tensors[index].shapeSignature = [*list(like.shapeSignature)[:-1], shape[-1]]
        return index
