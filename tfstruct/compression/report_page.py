"""The report of a compression as one HTML page."""

from functools import partial
from typing import TYPE_CHECKING

from tfstruct.compression import report_pictures
from tfstruct.markup import Html, element, folded, page, table
from tfstruct.reporting import figures
from tfstruct.reporting.tables import counted

if TYPE_CHECKING:
    from tfstruct.compression.mistakes import WorstSample
    from tfstruct.compression.report_data import ReportData
    from tfstruct.compression.stage import Stage

_BOX = 100, 40  # of a line, in units of its own


def report_page(report: "ReportData") -> str:
    """The page: the outcome first, then why, then the evidence."""
    pictures = _pictures(report)
    parts = [
        *_outcome(report),
        *_section("Accuracy against cost", pictures.get("front")),
        *_section("Candidates", folded("every model that was measured", _candidates(report))),
        *_section("What was done", *(part for i, stage in enumerate(report.stages, 1) for part in _stage(i, stage))),
        *_section("What was decided", _decisions(report)),
        *_section("Layers before and after", pictures.get("widths"), _widths(report)),
        *_section("Sensitivity of the original", pictures.get("sensitivity")),
        *_section("Classes taken for others", pictures.get("confusion")),
        *_section("Worst samples", _worst(report)),
        *_section("Settings and versions", _settings(report)),
    ]
    return page(f"{report.model}, compressed", *parts)


def _section(title: str, *inside) -> list[Html]:
    parts = [part for part in inside if part]
    return [element("h2", title), *parts] if parts else []


def _pictures(report) -> dict[str, Html]:
    """Pictures by name; instead of the first one a note, where there is nothing to draw with."""
    if not figures.installed():
        note = f"The pictures need matplotlib: {figures.INSTALL}, and write this page again."
        return {"front": element("p", note, class_="note")}
    names = [one.name for one in report_pictures.pictures(report) if one.name != "worst"]
    pictures = {name: figures.svg(partial(report_pictures.plot, report, name=name), name) for name in names}
    return {name: element("div", Html(text), class_="picture") for name, text in pictures.items()}


def _outcome(report) -> list[Html]:
    misses = report.limits.misses(report.result)
    said = f"The budget is missed: {'; '.join(misses)}." if misses else "The budget is met."
    parts = [element("p", element("b", said), f" Asked: {report.budget}.", class_="note mark" if misses else "note")]
    parts += [element("p", warning, class_="note mark") for warning in report.warnings]
    parts += [element("p", note, class_="note") for note in report.layer_notes]
    if limited := _limits(report):
        parts += [element("h2", "Budget"), table(limited, ["", "limit", "result", ""], numbers=(1, 2))]
    header = ["", "original", "plain int8", "result", "of plain int8"]
    parts += [element("h2", "Before and after"), table(report.rows(), header, numbers=(1, 2, 3, 4))]
    where = f" Latency: one thread, {report.processor}." if report.processor else ""
    about = "The original is measured as a float32 file; plain int8 is its file by post-training quantization alone."
    return [*parts, element("p", about + where, class_="soft")]


def _limits(report) -> list[tuple[str, str, str, str]]:
    limits, result = report.limits, report.result
    rows = []
    if limits.quality is not None:
        sign = "at least" if limits.greater_is_better else "at most"
        met = "met" if limits.good_enough(result) else "missed"
        rows.append((f"{limits.metric}, validation", f"{sign} {limits.quality:.4g}", f"{result.quality:.4g}", met))
    for name, limit in limits.figures.items():
        value = getattr(result, name)
        met = "met" if value is not None and value <= limit else "missed"
        rows.append((name, f"at most {limit:,.0f}", "unknown" if value is None else f"{value:,.0f}", met))
    return rows


def _candidates(report) -> Html:
    every = (report.original, *report.candidates)
    header = ["", report.original.metric, "bytes", "MACs", "latency, µs", "strategy"]
    rows = [
        (
            one.name, f"{one.quality:.4g}", f"{one.tflite_bytes:,}", "-" if one.macs is None else f"{one.macs:,}",
            "-" if one.latency_us is None else f"{one.latency_us:,.0f}", ", ".join(step.kind for step in one.strategy),
        )
        for one in every
    ]  # fmt: skip
    return table(rows, header, numbers=(1, 2, 3, 4))


def _stage(number: int, stage: "Stage") -> list[Html]:
    parts = [element("h3", f"{number}. {stage.step.kind}")]
    parts += [element("p", f"Why: {stage.step.reason}.")] if stage.step.reason else []
    parts.append(element("p", f"Then: {stage.candidate}. It took {stage.seconds:,.0f} s."))
    if stage.changes:
        parts.append(table(stage.changes, ["layer", "what was done"]))
    if stage.skipped:
        inside = table(stage.skipped, ["layer", "why"])
        parts.append(folded(f"{len(stage.skipped)} left alone", inside))
    if stage.history:
        names = list(dict.fromkeys(name for logs in stage.history for name in logs))
        rows = [
            (str(epoch), *(f"{logs[name]:.4g}" if name in logs else "-" for name in names))
            for epoch, logs in enumerate(stage.history, 1)
        ]
        inside = table(rows, ["epoch", *names], numbers=range(1, len(names) + 1))
        parts.append(folded(f"{counted(len(rows), 'epoch')} of training", inside))
    return [*parts, element("p", f"Settings: {stage.step}", class_="soft")]


def _decisions(report) -> Html | None:
    rows = [("yes" if one.taken else "no", one.kind, one.reason) for one in report.decisions]
    return table(rows, ["", "step", "why"]) if rows else None


def _widths(report) -> Html | None:
    rows = [(name, str(before), str(after) if after else "gone") for name, (before, after) in report.widths.items()]
    if not rows:
        return None
    return folded(
        f"channels of {counted(len(rows), 'layer')}", table(rows, ["layer", "before", "after"], numbers=(1, 2))
    )


def _worst(report) -> Html | None:
    known = report.mistakes
    if known is None:
        return None
    if not known.worst:
        return element("p", f"None of the {known.samples:,} validation samples is wrong, by {known.truth}.")
    about = "what the file gets wrong most surely" if known.weight == "confidence" else f"by {known.weight}"
    words = f"Of {known.samples:,} validation samples, {about}, against {known.truth}."
    cards = [
        element("figure", _look(one), element("figcaption", report_pictures.caption(one, known.weight)))
        for one in known.worst
    ]
    return Html(element("p", words) + element("div", *cards, class_="cards"))


def _look(sample: "WorstSample") -> Html:
    if sample.picture:
        source = f"data:image/png;base64,{sample.picture}"
        return Html(f'<img alt="validation sample {sample.index}" src="{source}">')
    wide, high = _BOX
    values = [value for line in sample.lines for value in line]
    low, span = min(values), (max(values) - min(values)) or 1.0
    lines = []
    for line, opacity in zip(sample.lines, (1, 0.6, 0.35), strict=False):
        step = wide / max(len(line) - 1, 1)
        points = " ".join(f"{i * step:.1f},{high * (1 - (value - low) / span):.1f}" for i, value in enumerate(line))
        lines.append(element("polyline", points=points, fill="none", stroke="currentColor", opacity=str(opacity)))
    return element("svg", *lines, viewBox=f"-1 -1 {wide + 2} {high + 2}", role="img")


def _settings(report) -> Html:
    rows = [(f"data, {name}", what) for name, what in report.data.items()]
    rows += [(name, str(value)) for name, value in report.settings.items()]
    rows += list(report.versions.items())
    rows += [("measured on", report.processor)] if report.processor else []
    return table([*rows, ("time taken", f"{report.seconds:,.0f} s")])
