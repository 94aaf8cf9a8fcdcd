"""The model card of a conversion: Markdown to put beside its file."""

from tfstruct.convert.usage import clipped, markdown_table, usage
from tfstruct.markup import markdown
from tfstruct.reporting.tables import counted


def model_card(report) -> str:
    """Of a `convert.Report`: what the file is, how to use it, how it agrees with the model, its limits."""
    parts = [
        f"# {markdown(report.model)}",
        f"A TensorFlow Lite file of {report.size:,} bytes in {markdown(report.precision)}, made from the model "
        f"{markdown(report.model)} ({counted(report.parameters, 'parameter')}) by tfstruct.",
    ]
    if report.inputs:
        parts += ["## How to use the file", usage(report.inputs, report.outputs)]
    figures = [(markdown(what), markdown(value)) for what, value in report.rows() if what not in _ELSEWHERE]
    parts += ["## Figures", markdown_table(["", ""], figures)]
    limits = [*clipped(report.inputs), "Nothing is known of data unlike that it was verified on."]
    limits += map(markdown, (*report.warnings, *report.layer_notes))
    parts += ["## Limits", "\n".join(f"- {line}" for line in limits)]
    if report.versions:
        parts += ["## Made with", ", ".join(f"{name} {version}" for name, version in report.versions.items())]
    return "\n\n".join(parts) + "\n"


_ELSEWHERE = ("model", "takes", "gives", "warning")
