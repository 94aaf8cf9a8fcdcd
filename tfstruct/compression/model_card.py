"""The model card of a compressed model: Markdown to put beside its file."""

from typing import TYPE_CHECKING

from tfstruct.convert.usage import clipped, markdown_table, usage
from tfstruct.markup import markdown
from tfstruct.reporting.tables import counted

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
    return usage(report.ports["inputs"], report.ports["outputs"]) if report.ports else ""


def _data(report) -> str:
    names = {"train": "trained on", "validation": "all choices made on", "test": "looked at once, at the end"}
    return "\n".join(f"- {names[name]}: {what}" for name, what in report.data.items())


def _figures(report) -> str:
    rows = [tuple(map(markdown, row)) for row in report.rows()]
    where = f"\n\nLatency: one thread, {markdown(report.processor)}." if report.processor else ""
    return markdown_table(["", "original", "plain int8", "this file", "of plain int8"], rows) + where


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
    lines += clipped(report.ports.get("inputs", ()))
    lines.append("Nothing is known of data unlike those above.")
    return "\n".join(f"- {line}" for line in [*lines, *map(markdown, (*report.warnings, *report.layer_notes))])


def _versions(report) -> str:
    return ", ".join(f"{name} {version}" for name, version in report.versions.items())
