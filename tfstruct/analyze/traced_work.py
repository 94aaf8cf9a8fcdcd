"""The work inside of an operation that no rule knows, counted on the TensorFlow operations that its call traces to."""

import dataclasses
import inspect
import math
import weakref
from collections.abc import Iterable

import keras
import tensorflow as tf

from tfstruct.graph import Call, Graph, is_training_only
from tfstruct.keras_internals.tensorflow import inner_graph

# They compute more than their elements, and nothing says how much in multiply-accumulates.
_HIDDEN = {
    "PyFunc", "PyFuncStateless", "EagerPyFunc", "NumpyFunction", "XlaCallModule", "CudnnRNN", "CudnnRNNV2",
    "CudnnRNNV3", "Svd", "Qr", "Lu", "Cholesky", "MatrixInverse", "MatrixSolve", "MatrixSolveLs", "MatrixLogarithm",
    "MatrixSquareRoot", "MatrixTriangularSolve", "MatrixExponential", "MatrixDeterminant", "LogMatrixDeterminant",
    "SelfAdjointEigV2", "Eig", "SparseTensorDenseMatMul", "SparseMatMul",
    *(f"{kind}{size}" for kind in ("FFT", "IFFT", "RFFT", "IRFFT") for size in ("", "2D", "3D", "ND")),
}  # fmt: skip
_CALLS = {"PartitionedCall": "f", "StatefulPartitionedCall": "f"}
_LOOPS = {"While", "StatelessWhile"}
_BRANCHES = {"If", "StatelessIf", "Case", "StatelessCase"}
_VIEWS = {"Identity", "IdentityN", "StopGradient", "Reshape", "ExpandDims", "Squeeze", "EnsureShape", "Cast"}
_IN_PLACE = {
    "Add", "AddV2", "BiasAdd", "Sub", "Mul", "RealDiv", "Maximum", "Minimum", "Pow", "SquaredDifference", "Relu",
    "Relu6", "LeakyRelu", "Elu", "Selu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Erf", "Exp", "Log", "Neg", "Abs",
    "Square", "Sqrt", "Rsqrt", "FusedBatchNormV3", "Softmax",
}  # fmt: skip


OPEN = "it leaves sizes open"


class _Unknown(Exception):
    """Why the work cannot be counted."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What is inside of one call, for one sample.

    Attributes:
        macs: multiply-accumulates of matrix products and convolutions of what comes in; those of a loop times its
            rounds, of branches the largest. None where `why` says what hides them.
        peak: bytes of live tensors at the worst moment, what comes in and goes out with them, one byte an element.
        results: tensors that the operations make; those of a loop times its rounds.
        why: why `macs`, and what else is None, are unknown; empty where nothing is.
    """

    macs: float | None
    peak: float | None
    results: float | None
    why: str = ""


_KNOWN: "weakref.WeakKeyDictionary[Call, Work]" = weakref.WeakKeyDictionary()


def works(graph: Graph) -> dict[int, Work]:
    """By the number of a call, the work inside: of those that no rule follows, and of a user's layers whose rule says
    nothing of multiply-accumulates."""
    batch = next((x.shape[0] for x in graph.body.inputs if x.rank), None)
    found = {}
    for number, call in enumerate(graph.calls):
        if call.opaque or (not call.costs and _is_own(call.op)):
            if call not in _KNOWN:
                _KNOWN[call] = traced_work(call, batch)
            found[number] = _KNOWN[call]
    return found


def _is_own(op) -> bool:
    own = type(op).__module__.split(".")[0] not in ("keras", "tfstruct")
    return own and isinstance(op, keras.layers.Layer) and not is_training_only(op)


def traced_work(call: Call, batch: int | None = None) -> Work:
    """Traces a call on symbolic tensors of its inputs' shapes, at inference, and counts its operations.

    Args:
        batch: the number of samples, where the model fixes it.
    """
    graph = tf.__internal__.FuncGraph("work")
    arrived = {id(x): c.shape for x, c in zip(call.node.arguments.keras_tensors, call.inputs, strict=False)}
    given: list[tf.Tensor] = []

    def tensor(x):
        if not isinstance(x, keras.KerasTensor):
            return x
        shape = list(arrived.get(id(x), x.shape))
        if shape and shape[0] is None:
            shape[0] = 1
        given.append(tf.compat.v1.placeholder(x.dtype, shape))
        return given[-1]

    try:
        # The scope keeps what a call assigns, or adds to the losses, away from the layer.
        with keras.StatelessScope(), graph.as_default():
            args, kwargs = keras.tree.map_structure(tensor, (call.node.arguments.args, call.node.arguments.kwargs))
            if isinstance(call.op, keras.layers.Layer) and "training" in inspect.signature(call.op.call).parameters:
                kwargs["training"] = False
            outputs = call.op(*args, **kwargs)
    except Exception as error:  # a user's code may raise anything
        said = next(iter(str(error).strip().splitlines()), "")
        return Work(None, None, None, f"its call cannot be traced ({type(error).__name__}: {said[:120]})")
    made = [x for x in keras.tree.flatten(outputs) if tf.is_tensor(x) and getattr(x, "graph", None) is graph]
    samples = batch or 1
    try:
        found = _Walk(graph, given, made)
    except _Unknown as unknown:
        return Work(None, None, None, str(unknown))
    outside = [n for x in (*given, *made) for n in ([None] if x.shape.rank is None else x.shape[1:])]
    # A function that was traced with open sizes, as those of SavedModels are, stays so on known ones.
    why = "" if found.macs is not None else OPEN if None in outside else "sizes are open in what it calls"
    macs, peak = (None if n is None else n / samples for n in (found.macs, found.peak))
    return Work(macs, peak, found.results, why)


class _Walk:
    """A graph from the tensors that come in to those that go out; what depends on weights alone is no work."""

    def __init__(self, graph, given: Iterable, made: Iterable):
        self.macs: float | None = 0.0
        self.results = 0.0
        depends = {_key(x) for x in given}
        needed = _needed(made)
        steps = []  # (operation, its tensors, bytes inside of it)
        for op in graph.get_operations():
            if op.name not in needed or not any(_key(x) in depends for x in op.inputs):
                continue
            depends.update(_key(x) for x in op.outputs)
            inside = self._count(op, depends)
            steps.append((op, [x for x in op.inputs if _key(x) in depends], inside))
        self.peak = _peak(list(given), steps, list(made))

    def _count(self, op, depends) -> float | None:
        """Adds the work of an operation; returns the bytes at its worst moment if others are inside of it."""
        if op.type in _HIDDEN:
            raise _Unknown(f"its operation {op.type} does not say how much it computes")
        if op.type in _CALLS:
            return self._add(self._body(op, _CALLS[op.type], depends))
        if op.type in _LOOPS:
            return self._add(self._body(op, "body", depends), _rounds(op))
        if op.type in _BRANCHES:
            names = ("then_branch", "else_branch") if "If" in op.type else ("branches",)
            ways = [way for name in names for way in self._bodies(op, name, depends, 1)]
            return self._add(max(ways, key=lambda way: math.inf if way.macs is None else way.macs))
        macs = _macs(op)
        self.macs = None if macs is None or self.macs is None else self.macs + macs
        self.results += op.type not in _VIEWS
        return None

    def _add(self, inside: "_Walk", times: float | None = 1) -> float | None:
        if times is None:
            if inside.macs != 0:
                raise _Unknown("it multiplies in a loop whose number of rounds is not known beforehand")
            times = 1
        self.macs = None if inside.macs is None or self.macs is None else self.macs + times * inside.macs
        self.results += times * inside.results
        return inside.peak

    def _body(self, op, attribute: str, depends) -> "_Walk":
        return self._bodies(op, attribute, depends, 0)[0]

    def _bodies(self, op, attribute: str, depends, skip: int) -> list["_Walk"]:
        """The functions that an operation runs; the first `skip` inputs only say which."""
        functions = op.get_attr(attribute)
        found = []
        for function in functions if isinstance(functions, list) else [functions]:
            inner = _function(op.graph, function.name)
            given = [y for x, y in zip(op.inputs[skip:], inner.inputs, strict=True) if _key(x) in depends]
            # What a loop carries depends on what comes in after the first round.
            given = list(inner.inputs) if op.type in _LOOPS and given else given
            found.append(_Walk(inner, given, inner.outputs))
        return found


def _key(x) -> str:
    return x.name


def _needed(made: Iterable) -> set[str]:
    found: set[str] = set()
    waiting = [x.op for x in made]
    while waiting:
        op = waiting.pop()
        if op.name not in found:
            found.add(op.name)
            waiting += [x.op for x in op.inputs] + list(op.control_inputs)
    return found


def _function(graph, name: str):
    while graph is not None:
        inner = inner_graph(graph, name)
        if inner is not None:
            return inner
        graph = getattr(graph, "outer_graph", None)
    raise _Unknown(f"its function {name} cannot be read")


def _macs(op) -> float | None:
    """Multiply-accumulates of one operation; None where a size is open."""
    if op.type == "MatMul":
        return _product(op.outputs[0].shape, op.inputs[0].shape[0 if op.get_attr("transpose_a") else 1])
    if op.type in ("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"):
        return _product(op.outputs[0].shape, op.inputs[0].shape[-2 if op.get_attr("adj_x") else -1])
    if op.type in ("Einsum", "XlaEinsum"):
        return _einsum(op)
    if op.type in ("Conv", "Conv2D", "Conv3D"):
        return _product(op.outputs[0].shape, *op.inputs[1].shape[:-1])
    if op.type == "DepthwiseConv2dNative":
        return _product(op.outputs[0].shape, *op.inputs[1].shape[:2])
    if op.type in ("Conv2DBackpropInput", "Conv3DBackpropInputV2"):
        return _product(op.inputs[2].shape, *op.inputs[1].shape[:-1])  # transposed: every position meets every tap
    return 0.0


def _einsum(op) -> float | None:
    left = op.get_attr("equation").decode().replace(" ", "").split("->")[0].split(",")
    if len(left) < 2:
        return 0.0
    sizes: dict = {}
    for letters, x in zip(left, op.inputs, strict=True):
        if x.shape.rank is None:
            return None
        before, dots, after = letters.partition("...")
        spare = x.shape.rank - len(before) - len(after)
        names = [*before, *(f".{i}" for i in range(-spare, 0)), *after] if dots else list(letters)
        for name, size in zip(names, x.shape, strict=True):
            sizes[name] = size if size is None or name not in sizes else max(size, sizes[name] or size)
    return _product(sizes.values())


def _product(shape, *more) -> float | None:
    if getattr(shape, "rank", 0) is None:
        return None
    sizes = [*shape, *more]
    return None if None in sizes else float(math.prod(sizes))


def _rounds(op) -> float | None:
    """At most so many rounds of a loop whose counters are compared with constants; None for any other."""
    condition, body = (_function(op.graph, op.get_attr(name).name) for name in ("cond", "body"))
    places = {_key(x): i for i, x in enumerate(condition.inputs)}
    waiting, found = [condition.outputs[0]], []
    while waiting:
        test = _plain(waiting.pop()).op
        if test.type == "LogicalAnd":
            waiting += list(test.inputs)
        elif test.type in ("Less", "LessEqual"):
            rounds = _counted(op, body, places, test)
            found += [] if rounds is None else [rounds]
    return min(found, default=None)


def _counted(op, body, places, test) -> float | None:
    counter, bound = (_plain(x) for x in test.inputs)
    if _key(counter) not in places:
        return None
    place = places[_key(counter)]
    last = tf.get_static_value(bound)
    if last is None and _key(bound) in places:
        other = places[_key(bound)]
        if _plain(body.outputs[other]) is body.inputs[other]:
            last = tf.get_static_value(op.inputs[other])
    first, after = tf.get_static_value(op.inputs[place]), _plain(body.outputs[place])
    if last is None or first is None or after.op.type not in ("Add", "AddV2"):
        return None
    terms = [_plain(x) for x in after.op.inputs]
    step = [tf.get_static_value(x) for x in terms if x is not body.inputs[place]]
    if len(step) != 1 or step[0] is None or not step[0] > 0:
        return None
    return float(max(0, math.ceil((last - first + (test.type == "LessEqual")) / step[0])))


def _plain(x):
    while x.op.type in ("Identity", "StopGradient"):
        x = x.op.inputs[0]
    return x


def _peak(given: list, steps: list, made: list) -> float | None:
    """The most bytes that are alive during one of the steps, one byte an element."""
    last = {_key(x): i for i, (_, came, _) in enumerate(steps) for x in came} | {_key(x): len(steps) for x in made}
    home: dict[str, int] = {}  # tensor -> where it lies
    sizes: list[float | None] = []
    dies: list[int] = []

    def put(x, place: int | None, now: int) -> None:
        if place is None:
            place = len(sizes)
            sizes.append(_product(x.shape))
            dies.append(now)
        home[_key(x)] = place
        dies[place] = max(dies[place], last.get(_key(x), now))

    for x in given:
        put(x, None, 0)
    most: float = sum(n or 0.0 for n in sizes)
    born = [0] * len(sizes)
    inner = []
    for now, (op, came, inside) in enumerate(steps):
        first = home.get(_key(came[0]))
        over = (
            op.type in _IN_PLACE
            and len(came) == 1
            and first is not None
            and dies[first] <= now
            and _product(op.outputs[0].shape) == sizes[first]
        )
        for number, x in enumerate(op.outputs):
            put(x, first if number == 0 and (op.type in _VIEWS or over) else None, now)
            born += [now] * (len(sizes) - len(born))
        if inside is not None:
            own = sum(sizes[home[_key(x)]] or 0.0 for x in {_key(x): x for x in [*came, *op.outputs]}.values())
            inner.append((now, max(0.0, inside - own)))
    known = [n for n in sizes if n is not None]
    if len(known) < len(sizes) or any(
        inside is None and op.type in {*_CALLS, *_LOOPS, *_BRANCHES} for op, _, inside in steps
    ):
        return None
    change = [0.0] * (len(steps) + 2)
    for size, start, end in zip(known, born, dies, strict=True):
        change[start] += size
        change[end + 1] -= size
    extra = dict(inner)
    live = 0.0
    for now in range(len(steps)):
        live += change[now]
        most = max(most, live + extra.get(now, 0.0))
    return most
