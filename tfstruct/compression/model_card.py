"""The model card of a compressed model: Markdown to put beside its file."""

from typing import TYPE_CHECKING

import numpy as np

from tfstruct.convert.runtime import Port
from tfstruct.markup import markdown
from tfstruct.reporting.tables import counted, shape

if TYPE_CHECKING:
    from tfstruct.compression.report_data import ReportData

_WEAK = 3  # classes that are named for their low recall


def model_card(report: "ReportData") -> str:
    """What the model is, how to use its file, its data, its figures, its limits."""
    parts = [
        f"# {markdown(report.model)}",
        _what(report),
        *_section("How to use the file", _usage(report)),
        *_section("Data", _data(report)),
        *_section("Figures", _figures(report)),
        *_section("How it was made", _steps(report)),
        *_section("Limits", _limits(report)),
        *_section("Made with", _versions(report)),
    ]
    return "\n\n".join(parts) + "\n"


def _section(title: str, text: str) -> list[str]:
    return [f"## {title}", text] if text else []


def _what(report) -> str:
    result = report.result
    misses = report.limits.misses(result)
    said = f"missed: {'; '.join(misses)}" if misses else "met"
    return (
        f"A TensorFlow Lite file of {result.tflite_bytes:,} bytes, made from the Keras model {markdown(report.model)} "
        f"({counted(report.original.params, 'parameter')} before, {result.params:,} now). Asked: {report.budget}; "
        f"{said}."
    )


def _usage(report) -> str:
    if not report.ports:
        return ""
    inputs, outputs = report.ports["inputs"], report.ports["outputs"]
    tables = [_table(["", "name", "shape", "stored as"], [_port("input", one) for one in inputs])]
    tables[0] += "\n" + "\n".join(_line(_port("output", one)) for one in outputs)
    names = [f"input_{i}" for i in range(len(inputs))] if len(inputs) > 1 else ["x"]
    lines = [
        "import numpy as np", "from ai_edge_litert.interpreter import Interpreter", "",
        'interpreter = Interpreter("model.tflite")', "interpreter.allocate_tensors()",
    ]  # fmt: skip
    for name, port in zip(names, inputs, strict=True):
        lines.append(f"interpreter.set_tensor({port.index}, {_encoded(name, port)})")
    lines.append("interpreter.invoke()")
    for i, port in enumerate(outputs):
        name = "y" if len(outputs) == 1 else f"output_{i}"
        lines.append(f"{name} = {_decoded(f'interpreter.get_tensor({port.index})', port)}")
    about = f"`{'`, `'.join(names)}`: real numbers, as the Keras model takes them, in the shape above."
    code = "```python\n" + "\n".join(lines) + "\n```"
    return "\n\n".join([*tables, about, code])


def _port(side: str, port: Port) -> tuple[str, ...]:
    stored = port.dtype.name
    if port.scale:
        stored += f", real = {port.scale:.6g} * (stored{-port.zero_point:+d})"
    return side, f"`{port.name}`", shape(port.shape), stored


def _encoded(name: str, port: Port) -> str:
    if not port.scale:
        return f'np.asarray({name}, "{port.dtype.name}")'
    limits = np.iinfo(port.dtype)
    whole = f"np.round(np.asarray({name}) / {port.scale!r}) + {port.zero_point}"
    return f'np.clip({whole}, {limits.min}, {limits.max}).astype("{port.dtype.name}")'


def _decoded(stored: str, port: Port) -> str:
    return f'({stored}.astype("float32") + {-port.zero_point}) * {port.scale!r}' if port.scale else stored


def _data(report) -> str:
    names = {"train": "trained on", "validation": "all choices made on", "test": "looked at once, at the end"}
    return "\n".join(f"- {names[name]}: {what}" for name, what in report.data.items())


def _figures(report) -> str:
    rows = [tuple(map(markdown, row)) for row in report.rows()]
    where = f"\n\nLatency: one thread, {markdown(report.processor)}." if report.processor else ""
    return _table(["", "original", "plain int8", "this file", "of plain int8"], rows) + where


def _steps(report) -> str:
    lines = []
    for i, stage in enumerate(report.stages, 1):
        why = f": {markdown(stage.step.reason)}" if stage.step.reason else ""
        lines.append(f"{i}. {stage.step.kind}, {counted(stage.step.epochs or 0, 'epoch')}{why}")
    return "\n".join(lines)


def _limits(report) -> str:
    metric = report.original.metric
    lines = [f"{metric.capitalize()} on the validation data is optimistic: every choice was made by it."]
    if not report.test:
        lines.append("It was not judged on a test set.")
    known = report.mistakes
    if known is not None and known.classes:
        recalls = known.recalls(known.result)
        weak = [one for one in sorted(recalls, key=lambda c: (recalls[c], c))[:_WEAK] if recalls[one] < 1]
        before = known.recalls(known.original)
        if weak:
            said = ", ".join(f"class {one} {recalls[one]:.1%} (original {before[one]:.1%})" for one in weak)
            lines.append(f"Recognized least often, against {known.truth}: {said}.")
    if report.result.latency_us is not None and report.processor:
        lines.append("On another processor the latency is another one, also in proportion to plain int8's.")
    for port in report.ports.get("inputs", ()):
        if port.scale:
            low, high = (port.scale * (edge - port.zero_point) for edge in _edges(port))
            lines.append(f"Values of `{port.name}` outside {low:.4g} to {high:.4g} are clipped.")
    lines.append("Nothing is known of data unlike those above.")
    return "\n".join(f"- {line}" for line in [*lines, *map(markdown, (*report.warnings, *report.layer_notes))])


def _edges(port: Port) -> tuple[int, int]:
    limits = np.iinfo(port.dtype)
    return limits.min, limits.max


def _versions(report) -> str:
    return ", ".join(f"{name} {version}" for name, version in report.versions.items())


def _table(header, rows) -> str:
    return "\n".join([_line(header), _line(["---"] * len(header)), *map(_line, rows)])


def _line(cells) -> str:
    return f"| {' | '.join(cells)} |"
