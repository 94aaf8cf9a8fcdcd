"""Does a model fit a kind of device? Asked of the device's own runtime or compiler where it is installed.

print(check_target(model, "micro"))             # before training: a Keras model
print(check_target("model.tflite", "ethos-u"))  # after: a file
"""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping

from tfstruct.convert import cutout, edgetpu, ethos_u, flatbuffer, micro
from tfstruct.convert.flatbuffer import Operator
from tfstruct.convert.runtime import is_delegated
from tfstruct.errors import ConversionError, RecipeError


@dataclasses.dataclass(frozen=True)
class Row:
    """One operator of the file and whether it fits.

    Attributes:
        operator: TensorFlow Lite's name.
        layers: the Keras layers it came from; of a file, what its tensors are named after.
        dtype: of its result.
        fits: True if the target runs it.
        why: the reason if it does not, a remark if it does.
        replacement: what would fit instead; empty where nothing is known.
    """

    operator: str
    layers: tuple[str, ...]
    dtype: str
    fits: bool
    why: str = ""
    replacement: str = ""

    @property
    def layer(self) -> str:
        return ", ".join(self.layers) or "no layer known"


@dataclasses.dataclass(frozen=True)
class TargetReport:
    """What fits a target and what does not.

    Attributes:
        target: its name.
        what: what it is.
        judge: who judged, with its version: a runtime, a compiler or a table.
        rows: one an operator, in the order of the file.
        facts: figures, e.g. `("arena", "4,352 bytes ...")`.
        notes: what the user should know.
    """

    target: str
    what: str
    judge: str
    rows: tuple[Row, ...]
    facts: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """True if the target runs every operator."""
        return all(row.fits for row in self.rows)

    @property
    def outside(self) -> tuple[Row, ...]:
        """The operators that do not fit; those that only convert number formats last."""
        found = [row for row in self.rows if not row.fits]
        return tuple(sorted(found, key=lambda row: row.operator in flatbuffer.BORDER_OPERATORS))

    def problem(self) -> str:
        """One line on what does not fit, with operators, Keras layers and replacements; "" if all does."""
        seen: dict[tuple[str, str], Row] = {}
        # What stands around a float operator falls with it: it is named only where nothing else is outside.
        causes = [row for row in self.outside if row.operator not in flatbuffer.BORDER_OPERATORS]
        for row in causes or self.outside:
            seen.setdefault((row.operator, row.layer), row)
        if not seen:
            return ""
        shown = [
            f"{row.operator} (layer {row.layer}): {row.why}{f'. Use {row.replacement}' if row.replacement else ''}"
            for row in list(seen.values())[:5]
        ]
        more = f"; and {len(seen) - 5} more" if len(seen) > 5 else ""
        return f"{len(self.outside)} of {len(self.rows)} operators do not fit {self.target}: {'; '.join(shown)}{more}."

    def require(self) -> None:
        """Raises a ConversionError with `problem()` if something does not fit."""
        if not self.fits:
            layers = dict.fromkeys(layer for row in self.outside for layer in row.layers)
            raise ConversionError(self.problem(), tuple(layers))

    def summary(self) -> list[tuple[str, str]]:
        """(what, value) lines without the table."""
        count = sum(row.fits for row in self.rows)
        lines = [("target", f"{self.target}: {self.what}"), ("judged by", self.judge)]
        lines.append(("fits", f"{'yes' if self.fits else 'no'}: {count} of {len(self.rows)} operators"))
        lines += list(self.facts)
        lines += [("outside", f"{r.operator} ({r.layer}): {r.why}") for r in self.outside]
        lines += [("note", note) for note in self.notes]
        return lines

    def table(self):
        """A `rich.table.Table` with one row an operator."""
        from rich.table import Table

        title = f"{self.target}: {'fits' if self.fits else 'does not fit'} (judged by {self.judge})"
        figures = [f"{name}: {value}" for name, value in self.facts] + list(self.notes)
        table = Table(title=title, caption="\n".join(figures) or None, header_style="bold", caption_justify="left")
        for name in ("operator", "Keras layer", "type", "fits", "why", "use instead"):
            table.add_column(name, overflow="fold")
        for row in self.rows:
            cells = (row.operator, row.layer, row.dtype, "yes" if row.fits else "NO", row.why, row.replacement)
            table.add_row(*cells, style=None if row.fits else "red")
        return table

    def to_dict(self) -> dict:
        """Plain data."""
        data = dataclasses.asdict(self)
        return {**data, "facts": dict(self.facts), "fits": self.fits}

    def __str__(self) -> str:
        return "\n".join(f"{what:<14} {value}" for what, value in self.summary())


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a judge says of a file: a remark and a fit by operator, figures, notes, and its own name."""

    judge: str
    answers: list[tuple[bool, str]]
    facts: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Target:
    """A kind of device.

    Attributes:
        name: as the user says it.
        what: what it is.
        operators: operator -> its limitation; from these comes what is proposed as a replacement.
        judge: says of every operator of a file whether it fits.
    """

    name: str
    what: str
    operators: Mapping[str, str]
    judge: Callable[[bytes, list[Operator]], Verdict]


def target(name: str) -> Target:
    """A target by its name; `"ethos-u"` also as one accelerator, e.g. `"ethos-u55-256"`.

    Raises:
        RecipeError: there is no such target.
    """
    if name == "mobile":
        return Target(name, "phones and single-board computers, XNNPACK", {}, _mobile)
    if name == "micro":
        return Target(name, "TensorFlow Lite for Microcontrollers", dict.fromkeys(micro.OPERATORS, ""), _micro)
    if name == "edgetpu":
        return Target(name, "Coral Edge TPU", edgetpu.OPERATORS, _edgetpu)
    if name == "ethos-u" or name in ethos_u.ACCELERATORS:
        accelerator = "ethos-u55-128" if name == "ethos-u" else name
        return Target(
            name,
            f"Arm Ethos-U NPU, {accelerator}",
            dict.fromkeys(ethos_u.OPERATORS, ""),
            lambda content, found: _ethos_u(content, found, accelerator),
        )
    raise RecipeError(
        f"`target` must be one of {', '.join(TARGETS)}, or an accelerator such as ethos-u55-256. Received: {name!r}."
    )


TARGETS = ("mobile", "micro", "ethos-u", "edgetpu")


def check_target(model_or_tflite, name: str, *, precision: str = "int8", recipe=None, process=None) -> TargetReport:
    """Checks every operator of a file, or of the file that a Keras model would become.

    Args:
        model_or_tflite: a `TFLiteModel`, the bytes or the path of a file, or a Keras model, trained or not: that
            one is converted and quantized with random samples, so the operators are those of the real file.
        name: see `target`.
        precision: of the file made from a Keras model.
        recipe: in its place, a `Recipe` for that file; its data is not read.
        process: a `ConverterProcess` that is running already, for many checks in a row.

    Raises:
        RecipeError: no such target.
        ConversionError: the model has an operator that TensorFlow Lite lacks; the Keras layer is named.
    """
    wanted = target(name)
    content, layers = _file(model_or_tflite, precision, recipe, process)
    found = flatbuffer.operators(content, layers)
    if not layers:
        found = [dataclasses.replace(op, layers=op.layers or _named_after(op)) for op in found]
    verdict = wanted.judge(content, found)
    floats, rows = all(op.is_float for op in found), []
    for op, (fits, why) in zip(found, verdict.answers, strict=True):
        instead = "" if fits else replacement(op, wanted, floats)
        rows.append(Row(op.name, op.layers, op.dtype, fits, why, instead))
    return TargetReport(wanted.name, wanted.what, verdict.judge, tuple(rows), verdict.facts, verdict.notes)


# Operator -> what to write in Keras, and the operator that it becomes; the first that the target takes is proposed.
_REPLACEMENTS = {
    "GELU": [("Activation('hard_swish')", "HARD_SWISH"), ("ReLU", "RELU")],
    "ELU": [("LeakyReLU", "LEAKY_RELU"), ("ReLU", "RELU")],
    "EXP": [("Activation('hard_sigmoid') or a ReLU", "RELU")],
    "LEAKY_RELU": [("ReLU", "RELU")],
    "PRELU": [("LeakyReLU", "LEAKY_RELU"), ("ReLU", "RELU")],
    "HARD_SWISH": [("ReLU(6.0)", "RELU6")],
    "LOG_SOFTMAX": [("Softmax", "SOFTMAX")],
    "CONV_3D": [("Conv2D with the frames as channels", "CONV_2D")],
    "CONV_3D_TRANSPOSE": [("Conv2DTranspose with the frames as channels", "TRANSPOSE_CONV")],
    "TRANSPOSE_CONV": [("UpSampling2D and Conv2D", "RESIZE_NEAREST_NEIGHBOR")],
    "BATCH_MATMUL": [("Dense or Conv2D (products with weights)", "FULLY_CONNECTED")],
    "WHILE": [("unroll=True in the recurrent layer, or Conv1D", "FULLY_CONNECTED")],
    "CUMSUM": [("Conv1D, or a Dense with fixed weights", "CONV_2D")],
    "REVERSE_V2": [("a layer that reads forward", "FULLY_CONNECTED")],
    "SELECT": [("one-hot inputs and Dense in place of Embedding", "FULLY_CONNECTED")],
    "SELECT_V2": [("a product with a mask", "MUL")],
    "POW": [("products", "MUL")],
    "DIV": [("a product with the inverse", "MUL")],
    "SQUARE": [("a product", "MUL")],
    "NEG": [("ReLU for PReLU, BatchNormalization for LayerNormalization", "RELU")],
    "GATHER": [("one-hot inputs and Dense", "FULLY_CONNECTED")],
    "L2_NORMALIZATION": [("BatchNormalization", "MUL")],
    "TILE": [("UpSampling2D", "RESIZE_NEAREST_NEIGHBOR"), ("Concatenate", "CONCATENATION")],
    "TOPK_V2": [("the scores themselves, and sort outside the model", "SOFTMAX")],
    "SHAPE": [("a fixed batch (batch_size=1, --batch-size 1)", "RESHAPE")],
    "FULLY_CONNECTED": [("Conv1D or Conv2D with a kernel of 1", "CONV_2D")],
    "MEAN": [("AveragePooling2D", "AVERAGE_POOL_2D")],
    "REDUCE_MAX": [("MaxPooling2D", "MAX_POOL_2D")],
}


def replacement(op: Operator, wanted: Target, float_file: bool = False) -> str:
    """What to write in place of an operator, so that it fits `wanted`; "" where nothing is known.

    Args:
        float_file: True if the whole file computes in float.
    """
    takes = wanted.operators
    if float_file and op.name in takes:
        return "precision int8 (--precision int8)"
    if op.name in flatbuffer.BORDER_OPERATORS:
        return "integer operators on both sides, integer input and output (no float_io)"
    if op.subgraph:
        return _REPLACEMENTS["WHILE"][0][0]
    for text, becomes in _REPLACEMENTS.get(op.name, ()):
        if not takes or becomes in takes:
            return text
    if op.name.startswith("Flex"):
        return "layers of TensorFlow Lite's own operators"
    return ""


def _file(given, precision: str, recipe, process) -> tuple[bytes, Mapping[str, tuple[str, ...]]]:
    """The bytes to judge, and tensor -> Keras layers where it is known."""
    if isinstance(given, str | os.PathLike):
        with open(given, "rb") as file:
            return file.read(), {}
    if isinstance(given, bytes | bytearray | memoryview):
        return bytes(given), {}
    if hasattr(given, "content"):
        return given.content, given.layers
    from tfstruct.convert.draft import draft

    return draft(given, precision, recipe=recipe, process=process)


def _named_after(op: Operator) -> tuple[str, ...]:
    """The layer in the name of an operator's result: tfstruct names tensors after layers."""
    return (re.sub(r"(:\d+|_dequant|_quantized)+$", "", op.outputs[0]),) if op.outputs else ()


def _mobile(content: bytes, found: list[Operator]) -> Verdict:
    model = flatbuffer.read(content)
    answers = []
    for op in found:
        alone = cutout.cut(model, op.subgraph, op.index)
        if alone is None:
            answers.append((True, "outside XNNPACK: control flow and resources"))
            continue
        try:
            fast = is_delegated(alone)
        except ConversionError as error:
            answers.append((False, str(error).split(": ", 1)[-1]))
        else:
            answers.append((True, "" if fast else "outside XNNPACK: a builtin kernel"))
    share = sum(fits and not why for fits, why in answers)
    facts = (("in XNNPACK", f"{share} of {len(found)} operators"),)
    return Verdict(f"ai-edge-litert {_version('ai-edge-litert')}", answers, facts)


def _micro(content: bytes, found: list[Operator]) -> Verdict:
    methods = micro.resolver_methods(content)
    facts: list[tuple[str, str]] = [("resolver", f"{len(methods)} operators: {', '.join(methods)}")]
    if micro.version() is None:
        answers = [
            (op.name in micro.OPERATORS, "" if op.name in micro.OPERATORS else "no kernel is registered")
            for op in found
        ]
        note = "tflite-micro is not installed: operators by name only, no arena. pip install 'tfstruct[micro]'"
        return Verdict("a table of tflite-micro 0.dev20261023182759", answers, tuple(facts), (note,))
    said = micro.probe(content)
    answers = [(problem is None, problem or "") for problem in said]
    notes: list[str] = []
    if all(fits for fits, _ in answers):
        try:
            used = micro.arena_bytes(content)
        except ConversionError as error:
            notes.append(f"no arena figure: {error}")
        else:
            facts.append(("arena", f"{used:,} bytes, measured with 64-bit pointers: less on a 32-bit device"))
    return Verdict(f"tflite-micro {micro.version()}", answers, tuple(facts), tuple(notes))


def _ethos_u(content: bytes, found: list[Operator], accelerator: str) -> Verdict:
    if ethos_u.version() is None:
        answers = [(op.name in ethos_u.OPERATORS and not op.is_float, _why_not_on_npu(op)) for op in found]
        note = "ethos-u-vela is not installed: by name and type only, no figures. pip install 'tfstruct[micro]'"
        return Verdict("a table of ethos-u-vela 5.2.0", answers, (), (note,))
    compiled = ethos_u.compile_file(content, accelerator)
    reasons = [compiled.on_cpu.get(op.outputs[0]) if op.outputs else None for op in found]
    answers = [(why is None, "" if why is None else f"on the CPU: {why}") for why in reasons]
    count = sum(fits for fits, _ in answers)
    facts = (
        ("on the NPU", f"{compiled.npu_share:.0%} of the operators ({count} of {len(found)})"),
        ("SRAM", f"{compiled.sram_bytes:,} bytes"),
        ("flash", f"{compiled.flash_bytes:,} bytes"),
        (
            "estimate",
            f"{compiled.cycles:,} cycles, {compiled.milliseconds:.3f} ms at {compiled.clock_hz / 1e6:.0f} MHz "
            f"({accelerator}, by the compiler's model, not measured)",
        ),
    )
    return Verdict(f"ethos-u-vela {ethos_u.version()}", answers, facts)


def _why_not_on_npu(op: Operator) -> str:
    if op.name not in ethos_u.OPERATORS:
        return "on the CPU: not a supported operator"
    return "on the CPU: works on floats" if op.is_float else ""


def _edgetpu(content: bytes, found: list[Operator]) -> Verdict:
    model = flatbuffer.read(content)
    problems = [edgetpu.problem(model, op) for op in found]
    notes = ("the Edge TPU compiler sends everything behind the first operator that does not fit to the CPU",)
    answers = [(not problem, problem) for problem in problems]
    facts = ()
    if any(problems):
        before = next(i for i, problem in enumerate(problems) if problem)
        facts = (("before it", f"{before} of {len(found)} operators stand before the first that does not fit"),)
    return Verdict("the documentation of the Edge TPU (coral.ai)", answers, facts, notes if any(problems) else ())


def _version(package: str) -> str:
    import importlib.metadata

    return importlib.metadata.version(package)
