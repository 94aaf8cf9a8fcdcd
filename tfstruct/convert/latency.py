"""Latency by operator: measured on this machine, or read from a table that was measured on a device.

`litert-benchmark` of ai-edge-litert 2.3 times whole models only. So each operator is cut out of the file and timed
alone in the same interpreter; the time of an invocation, about a microsecond, is part of every figure.
"""

import dataclasses
import functools
import math
import os
import statistics
from collections.abc import Iterable, Mapping

from tfstruct.convert import cutout, flatbuffer
from tfstruct.convert.runtime import Runtime, processor
from tfstruct.convert.runtime import latency as time_file
from tfstruct.errors import DataError
from tfstruct.reporting import Report, Sheet
from tfstruct.reporting.tables import counted, shape
from tfstruct.untrusted import json_text

Shapes = tuple[tuple[int, ...], ...]
_SCHEMA = "tfstruct-latency-1"
# The name under which the time of a whole model stands in a table.
WHOLE = "MODEL"


@dataclasses.dataclass(frozen=True)
class OperatorLatency:
    """The time of one operator.

    Attributes:
        operator: TensorFlow Lite's name, or `WHOLE`.
        shapes: of its inputs, weights too, in order, and of its first output last.
        dtype: of its first output.
        microseconds: median.
        processor: where it was measured.
        layers: Keras layers it came from, where they are known.
        macs: multiply-accumulates; for operators that have none, elements.
    """

    operator: str
    shapes: Shapes
    dtype: str
    microseconds: float
    processor: str
    layers: tuple[str, ...] = ()
    macs: int = 0


@dataclasses.dataclass(frozen=True)
class Estimated:
    """One operator of a file with its estimated time.

    Attributes:
        operator, layers, shapes: the operator.
        microseconds: the estimate; None where the table has no such operator.
        how: `"measured"`, `"scaled from ..."` or `"not in the table"`.
    """

    operator: str
    layers: tuple[str, ...]
    shapes: Shapes
    microseconds: float | None
    how: str


@dataclasses.dataclass(frozen=True)
class Estimate(Report):
    """What a table says of a file.

    Attributes:
        microseconds: sum over the operators that the table knows.
        operators: one entry an operator, in the order of the file.
        processors: where the table was measured.
        whole: times of whole models that the table holds, which are no part of the sum.
    """

    microseconds: float
    operators: tuple[Estimated, ...]
    processors: tuple[str, ...]
    whole: tuple[OperatorLatency, ...] = ()

    @property
    def missing(self) -> tuple[Estimated, ...]:
        """The operators that the table does not know: the sum is too small by them."""
        return tuple(one for one in self.operators if one.microseconds is None)

    def total(self) -> float:
        """The sum, where it is one of all operators.

        Raises:
            DataError: the table lacks some of them.
        """
        if self.missing:
            names = ", ".join(dict.fromkeys(one.operator for one in self.missing))
            raise DataError(f"The latency table lacks {names}. Measure them on the device too.")
        return self.microseconds

    def rows(self) -> list[tuple[str, str]]:
        """(what, value) lines."""
        exact = sum(one.how == "measured" for one in self.operators)
        scaled = len(self.operators) - exact - len(self.missing)
        how = f"{counted(exact, 'operator')} as measured, {scaled} scaled from the nearest"
        rows = [("estimate", f"{self.microseconds:,.1f} µs: {how}"), ("measured on", "; ".join(self.processors))]
        names = ", ".join(dict.fromkeys(one.operator for one in self.missing))
        if names:
            rows.append(("not estimated", f"{counted(len(self.missing), 'operator')} that the table lacks: {names}"))
        rows += [("whole model", f"{w.microseconds:,.1f} µs on {w.processor}") for w in self.whole]
        return rows

    def sheet(self) -> Sheet:
        columns = ("operator", "Keras layers", "shapes", ("µs", ",.1f"), "how")
        rows = [
            (one.operator, ", ".join(one.layers), _shapes(one.shapes), one.microseconds, one.how)
            for one in self.operators
        ]
        return Sheet(f"estimate: {self.microseconds:,.1f} µs", columns, rows, facts=self.rows()[1:])

    def __str__(self) -> str:
        return Sheet(facts=self.rows()).text()


@dataclasses.dataclass(frozen=True)
class LatencyTable(Report):
    """Times of operators, measured somewhere.

    Attributes:
        rows: one an operator and shape.

    Example:
        >>> measured = '{"operator": "FULLY_CONNECTED", "shapes": [[1, 8], [2, 8], [1, 2]], "microseconds": 0.7}'
        >>> table = tfstruct.convert.LatencyTable.from_json(f'{{"rows": [{measured}]}}', processor="the board")
        >>> table.processors, table.rows[0].microseconds
        (('the board',), 0.7)
    """

    rows: tuple[OperatorLatency, ...]

    @property
    def processors(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.processor for row in self.rows))

    def to_dict(self) -> dict:
        """`{"schema": "tfstruct-latency-1", "rows": [{"operator", "shapes", "microseconds", ...}]}`."""
        return {"schema": _SCHEMA, **super().to_dict()}

    def sheet(self) -> Sheet:
        columns = ("operator", "Keras layers", "shapes", "type", ("µs", ",.1f"), "processor")
        rows = [
            (row.operator, ", ".join(row.layers), _shapes(row.shapes), row.dtype, row.microseconds, row.processor)
            for row in self.rows
        ]
        return Sheet(f"times of {counted(len(rows), 'operator')}", columns, rows)

    @classmethod
    def from_json(cls, text: str, processor: str | None = None) -> "LatencyTable":
        """Reads our own schema, or what `litert-benchmark --result_json` wrote.

        A row needs `operator`, `shapes` and `microseconds`; `processor` may stand once for all rows.

        Args:
            processor: where it was measured, if the file does not say: litert-benchmark's does not.

        Raises:
            DataError: no JSON, or not such a table.
        """
        return json_text.read(text, lambda data: cls._from_data(data, processor), DataError, "A latency table")

    @classmethod
    def _from_data(cls, data: Mapping, processor: str | None) -> "LatencyTable":
        if isinstance(data.get("latency"), Mapping):
            return cls((_benchmark_row(data, processor),))
        if not isinstance(data.get("rows"), list):
            raise DataError(
                'A latency table must be a JSON object with "rows", or the result of litert-benchmark. Received: '
                f"an object with {sorted(data)}."
            )
        place = processor or data.get("processor")
        return cls(tuple(_row(row, number, place) for number, row in enumerate(data["rows"])))

    @classmethod
    def read(cls, path: str | os.PathLike, processor: str | None = None) -> "LatencyTable":
        """`from_json` of a file.

        Raises:
            DataError: no such file, or as there; the file is named.
        """
        build = functools.partial(cls._from_data, processor=processor)
        return json_text.read_file(path, build, DataError, "is not a latency table, which")

    def estimate(self, content: bytes, layers: Mapping[str, tuple[str, ...]] | None = None) -> Estimate:
        """What a file takes by this table.

        An operator of the same name, type and shapes counts as measured. Else the row of that operator and type
        whose number of multiply-accumulates is nearest, by their ratio, is scaled by it.
        """
        model = flatbuffer.read(content)
        found = []
        for op in flatbuffer.operators(model, layers):
            shapes = shapes_of(model, op)
            time, how = self.time(op.name, op.dtype, shapes)
            found.append(Estimated(op.name, op.layers, shapes, time, how))
        total = sum(one.microseconds or 0.0 for one in found)
        whole = tuple(row for row in self.rows if row.operator == WHOLE)
        return Estimate(total, tuple(found), self.processors, whole)

    def time(self, name: str, dtype: str, shapes: Shapes) -> tuple[float | None, str]:
        """The microseconds of an operator, and how they were found, as in `estimate`; None where it has no such row.

        Args:
            name: TensorFlow Lite's.
            dtype: of its first output.
            shapes: of its inputs, in order, and of its first output.
        """
        alike = [row for row in self.rows if row.operator == name and row.dtype in (dtype, "")]
        same = [row.microseconds for row in alike if row.shapes == shapes]
        if same:
            return statistics.median(same), "measured"
        work = _work(name, shapes)
        sized = [row for row in alike if row.macs > 0]
        if not sized or work <= 0:
            return None, "not in the table"
        near = min(sized, key=lambda row: abs(math.log(row.macs / work)))
        return near.microseconds * work / near.macs, f"scaled from {near.macs:,} to {work:,} MACs"


def profile_operators(
    content: bytes, layers: Mapping[str, tuple[str, ...]] | None = None, threads: int = 1, seconds: float = 0.02
) -> tuple[OperatorLatency, ...]:
    """Times every operator of a file alone, on zeros, on this machine.

    Operators that do not stand alone (loops, resources, open shapes) are left out.

    Args:
        layers: tensor -> Keras layers, as `TFLiteModel.layers`; None: as the names of the tensors tell.
        seconds: for each operator.
    """
    model = flatbuffer.read(content)
    here, rows = processor(), []
    for op in flatbuffer.operators(model, layers):
        alone = cutout.cut(model, op.subgraph, op.index)
        shapes = shapes_of(model, op)
        if alone is None or any(d < 0 for shape in shapes for d in shape):
            continue
        ports = Runtime(alone).inputs
        if any(d is None for port in ports for d in port.shape):
            continue
        timed = time_file(alone, {port.name: port.zeros() for port in ports}, threads, seconds)
        origin = op.layers if layers else flatbuffer.layers_by_name(op)
        rows.append(OperatorLatency(op.name, shapes, op.dtype, timed.median_us, here, origin, macs_of(model, op)))
    return tuple(rows)


def _shapes(shapes: Shapes) -> str:
    return ", ".join(map(shape, shapes))


def by_time(rows: Iterable[OperatorLatency]) -> list[OperatorLatency]:
    """The slowest first."""
    return sorted(rows, key=lambda row: -row.microseconds)


def shapes_of(model, op: flatbuffer.Operator, *, is_open: bool = True) -> Shapes:
    """Shapes of an operator's inputs, weights too, and of its first output, -1 where they are open; without `is_open`
    those that the file holds in their place."""
    graph = model.subgraphs[op.subgraph]
    operator = graph.operators[op.index]
    places = [i for i in operator.inputs if i >= 0] + list(operator.outputs)[:1]
    return tuple(_shape(graph.tensors[i], is_open) for i in places)


def macs_of(model, op: flatbuffer.Operator) -> int:
    """Multiply-accumulates of an operator; for one that has none, the elements it reads or writes. Where sizes are open
    they are those that the file holds in their place."""
    return _work(op.name, shapes_of(model, op, is_open=False))


def _work(name: str, shapes: Shapes) -> int:
    if len(shapes) < 2:
        return math.prod(shapes[0]) if shapes else 0
    return macs(name, shapes)


def macs(name: str, shapes: Shapes) -> int:
    """`macs_of` from shapes alone: inputs in order, the output last."""
    given, result = shapes[0], math.prod(shapes[-1])
    weights = shapes[1] if len(shapes) > 2 else ()
    if name in ("CONV_2D", "CONV_3D") and weights:
        return result * math.prod(weights[1:] if name == "CONV_2D" else weights[:-1])
    if name == "DEPTHWISE_CONV_2D" and weights:
        return result * math.prod(weights[1:3])
    if name == "FULLY_CONNECTED" and weights:
        return result * weights[-1]
    if name == "TRANSPOSE_CONV" and len(shapes) > 3:
        return math.prod(shapes[2]) * math.prod(weights[:3])
    if name == "BATCH_MATMUL" and given:
        return result * given[-1]
    return max(result, *(math.prod(shape) for shape in shapes[:-1]))


def _shape(tensor, is_open: bool) -> tuple[int, ...]:
    signature = tensor.shapeSignature if is_open else None
    values = signature if signature is not None and len(signature) else tensor.shape
    return () if values is None else tuple(int(d) for d in values)


def _benchmark_row(data: Mapping, processor: str | None) -> OperatorLatency:
    figures = data["latency"]
    middle = figures.get("median_ms", figures.get("avg_ms"))
    if not _is_time(middle):
        raise DataError(
            f"latency.median_ms of litert-benchmark must be above 0. Received: {middle!r}. It rounds to 0.01 ms: a "
            "model that is faster needs a table of its own."
        )
    place = processor or "a processor that litert-benchmark does not name"
    return OperatorLatency(WHOLE, (), "", middle * 1000.0, place, (os.path.basename(str(data.get("model", ""))),))


def _row(row, number: int, processor: str | None) -> OperatorLatency:
    def wrong(what: str):
        return DataError(f"Row {number} of the latency table {what}. Received: {repr(row)[:200]}.")

    if not isinstance(row, Mapping):
        raise wrong("must be an object")
    if not isinstance(row.get("operator"), str) or not row["operator"]:
        raise wrong("needs `operator`, a name such as CONV_2D")
    if not _is_time(row.get("microseconds")):
        raise wrong("needs `microseconds`, a number above 0")
    place = row.get("processor") or processor
    if not isinstance(place, str):
        raise wrong("needs `processor`, where it was measured: in the row, or once for the whole table")
    try:
        shapes = tuple(tuple(int(d) for d in shape) for shape in row.get("shapes", ()))
    except (TypeError, ValueError):
        raise wrong("needs `shapes`, a list of lists of numbers") from None
    work = row.get("macs") or (macs(row["operator"], shapes) if len(shapes) > 1 else 0)
    if not isinstance(work, int | float) or not math.isfinite(work):
        raise wrong("needs `macs`, a number, or none")
    layers = tuple(str(layer) for layer in row.get("layers", ()))
    return OperatorLatency(
        row["operator"], shapes, str(row.get("dtype", "")), float(row["microseconds"]), place, layers, int(work)
    )


def _is_time(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
