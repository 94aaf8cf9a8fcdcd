"""The pictures of a report of a compression: one, or all of them in one figure."""

import base64
import dataclasses
import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from tfstruct.compression.candidate import Candidate
from tfstruct.errors import ArgumentError
from tfstruct.reporting import figures
from tfstruct.reporting.figures import BLUE, GREY, LIGHT, ORANGE, RED

if TYPE_CHECKING:
    from tfstruct.compression.report_data import ReportData

_WIDTH = 5.2  # inches: on a phone the writing is still large enough
_MOST_CLASSES = 20
_MOST_LAYERS = 40
_MOST_NAMED = 12  # points with a name beside them


@dataclasses.dataclass(frozen=True)
class Picture:
    """One picture.

    Attributes:
        name: `"front"` and the like.
        title: in words.
        height: of a report's picture in inches; 0 where it has no data for it.
        draw: onto a figure, or a part of one.
    """

    name: str
    title: str
    height: Callable[["ReportData"], float]
    draw: Callable[[object, "ReportData"], None]


def pictures(report: "ReportData") -> list[Picture]:
    """Those that there are data for."""
    return [one for one in PICTURES if one.height(report)]


def plot(report: "ReportData", path=None, ax=None, name: str | None = None):
    """A matplotlib figure of one picture, or of all of them below each other; `path` and `ax` as in `Plotted.plot`."""
    known = {one.name: one for one in pictures(report)}
    if name is not None and name not in known:
        raise ArgumentError(f"Expected one of {', '.join(known)}, which there are data for. Received: {name!r}.")
    chosen = list(known.values()) if name is None else [known[name]]
    heights = [one.height(report) for one in chosen]

    def fill(figure) -> None:
        parts = figure.subfigures(len(chosen), 1, height_ratios=heights, squeeze=False)[:, 0]
        for one, part in zip(chosen, parts, strict=True):
            if name is None:
                part.suptitle(one.title, fontsize=10)
            one.draw(part, report)

    return figures.draw(fill, (_WIDTH, sum(heights)), 0, path, ax)


def front(candidates: list[Candidate], cost: str) -> list[Candidate]:
    """The candidates that no other is better than in quality without costing more, by cost."""
    found: list[Candidate] = []
    for one in sorted(candidates, key=lambda c: (getattr(c, cost), -c.quality if c.greater_is_better else c.quality)):
        if not found or one.better_than(found[-1]):
            found.append(one)
    return found


def _all(report) -> dict[str, Candidate]:
    """Every model once, by what it is called in a picture."""
    named = {"original": report.original, "plain int8": report.plain, "result": report.result}
    same = {(c.quality, c.tflite_bytes, c.latency_us) for c in named.values()}
    others = [c for c in report.candidates if (c.quality, c.tflite_bytes, c.latency_us) not in same]
    return {**named, **{f"{number}: {one.name}": one for number, one in enumerate(others, 1)}}


def _costs(report) -> list[tuple[str, str]]:
    axes = [("tflite_bytes", "bytes of the file")]
    every = (report.original, report.plain, report.result)
    return axes + [("latency_us", "latency, µs")] * all(c.latency_us is not None for c in every)


def _draw_front(figure, report) -> None:
    costs = _costs(report)
    axes = figure.subplots(len(costs), 1, squeeze=False)[:, 0]
    for axis, (cost, label) in zip(axes, costs, strict=True):
        points = {name: one for name, one in _all(report).items() if getattr(one, cost) is not None}
        for name, one in points.items():
            x, y = getattr(one, cost), one.quality
            marker, colour = _MARKS.get(name, ("o", GREY))
            size = 130 if name == "result" else 40
            axis.scatter(x, y, marker=marker, s=size, color=colour, zorder=3, label=name if name in _MARKS else None)
            if name not in _MARKS and len(points) <= _MOST_NAMED:
                axis.annotate(one.name, (x, y), (4, 4), textcoords="offset points", fontsize=7)
        best = front(list(points.values()), cost)
        axis.plot([getattr(one, cost) for one in best], [one.quality for one in best], color=GREY, linewidth=1)
        if report.limits.quality is not None:
            axis.axhline(report.limits.quality, color=RED, linewidth=0.8, linestyle="--", label="budget")
        if cost in report.limits.figures:
            axis.axvline(report.limits.figures[cost], color=RED, linewidth=0.8, linestyle="--")
        axis.set(xlabel=label, ylabel=f"{report.original.metric}, validation", xscale="log")
        _plain_ticks(axis)
    axes[0].legend(fontsize=8, loc="best")


def _plain_ticks(axis) -> None:
    """Three numbers along a logarithmic axis that spans less than a decade or two, written out."""
    from matplotlib.ticker import NullFormatter, NullLocator

    low, high = axis.get_xlim()
    ticks = np.geomspace(low, high, 5)[1:-1]
    axis.xaxis.set_major_locator(NullLocator())
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_minor_formatter(NullFormatter())
    rounded = [float(f"{tick:.2g}") for tick in ticks]
    axis.set_xticks(rounded, [f"{tick:,.0f}" if tick >= 10 else f"{tick:g}" for tick in rounded])


def _draw_widths(figure, report) -> None:
    axis = figure.subplots()
    rows = list(report.widths.items())[:_MOST_LAYERS][::-1]
    names = [_short(name) for name, _ in rows]
    places = range(len(rows))
    axis.barh(places, [before for _, (before, _) in rows], color=LIGHT, label="before")
    axis.barh(places, [after for _, (_, after) in rows], height=0.45, color=BLUE, label="after")
    for place, (_, (before, after)) in enumerate(rows):
        text = f" {before}" if before == after else f" {before} → {after}"
        axis.text(max(before, after), place, text, va="center", fontsize=7)
    axis.set_yticks(places, names, fontsize=8)
    axis.set(xlabel="channels" if len(rows) == len(report.widths) else f"channels, the first {len(rows)} layers")
    axis.margins(x=0.15, y=0.01)
    figure.legend(fontsize=8, loc="outside lower center", ncols=2)


def _draw_sensitivity(figure, report) -> None:
    report.sensitivity.plot(ax=figure.subplots())


def _draw_confusion(figure, report) -> None:
    known = report.mistakes
    chosen = _most_confused(known)
    place = {one: i for i, one in enumerate(chosen)}
    tables = [np.zeros((len(chosen), len(chosen)), int) for _ in range(2)]
    for counts, pairs in zip(tables, (known.original, known.result), strict=True):
        for true, predicted, count in pairs:
            if true in place and predicted in place:
                counts[place[true], place[predicted]] = count
    for axis, counts, name in zip(figure.subplots(2, 1), tables, ("original", "result"), strict=True):
        shares = np.ma.masked_equal(counts / np.maximum(counts.sum(1, keepdims=True), 1), 0.0)
        axis.pcolormesh(shares, cmap="Blues", vmin=-0.2, vmax=1.0)
        for (row, column), count in np.ndenumerate(counts):
            if count and len(chosen) <= 12:
                colour = "white" if shares[row, column] > 0.45 else "black"
                axis.text(column + 0.5, row + 0.5, count, ha="center", va="center", fontsize=7, color=colour)
        ticks = np.arange(len(chosen)) + 0.5
        axis.set_xticks(ticks, chosen, fontsize=7)
        axis.set_yticks(ticks, chosen, fontsize=7)
        axis.invert_yaxis()
        axis.set_aspect("equal")
        axis.set_title(name, fontsize=9)
        axis.set(xlabel="predicted class", ylabel=f"class by {known.truth}")


def _most_confused(known) -> list[int]:
    """All classes, or those with the most mistakes where there are many."""
    wrong = dict.fromkeys(range(known.classes), 0)
    for true, predicted, count in (*known.original, *known.result):
        if true != predicted:
            wrong[true] += count
            wrong[predicted] += count
    return sorted(sorted(wrong, key=lambda one: (-wrong[one], one))[:_MOST_CLASSES])


def _draw_worst(figure, report) -> None:
    from matplotlib.image import imread

    worst = report.mistakes.worst
    axes = figure.subplots(-(-len(worst) // 4), 4, squeeze=False).ravel()
    for axis in axes[len(worst) :]:
        axis.set_axis_off()
    for axis, sample in zip(axes, worst, strict=False):
        if sample.picture:
            axis.imshow(imread(io.BytesIO(base64.b64decode(sample.picture))), cmap="gray", vmin=0, vmax=1)
        for line in sample.lines:
            axis.plot(line, linewidth=0.8)
        axis.set(xticks=[], yticks=[])
        axis.set_title(caption(sample, report.mistakes.weight), fontsize=6)


def caption(sample, weight: str) -> str:
    """What is wrong with a sample, in words."""
    figure = f"{sample.weight:.0%} sure" if weight == "confidence" else f"error {sample.weight:.3g}"
    words = [f"no. {sample.index}: {sample.expected}, said {sample.received}"] if sample.received else []
    return ", ".join([*(words or [f"no. {sample.index}"]), figure])


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"…{name[-23:]}"


_MARKS = {"original": ("s", "#555555"), "plain int8": ("D", ORANGE), "result": ("*", BLUE)}

PICTURES = (
    Picture("front", "Accuracy against cost", lambda r: 2.6 * len(_costs(r)), _draw_front),
    Picture(
        "widths", "Channels before and after",
        lambda r: 1.1 + 0.24 * min(len(r.widths), _MOST_LAYERS) if r.widths else 0, _draw_widths,
    ),
    Picture(
        "sensitivity", "What the original loses without a share of a group's channels",
        lambda r: 1.3 + 0.24 * len(r.sensitivity.groups) if r.sensitivity else 0, _draw_sensitivity,
    ),
    Picture(
        "confusion", "Classes taken for others",
        lambda r: 8.0 if r.mistakes and r.mistakes.classes else 0, _draw_confusion,
    ),
    Picture(
        "worst", "Worst samples",
        lambda r: 1.6 * -(-len(r.mistakes.worst) // 4) if r.mistakes and r.mistakes.worst else 0, _draw_worst,
    ),
)  # fmt: skip
