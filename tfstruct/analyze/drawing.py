"""The picture of a network: boxes in the order of the data's flow, coloured by group."""

import colorsys
import dataclasses
from typing import Any

import numpy as np

from tfstruct.analyze.memory import hands_on
from tfstruct.graph import Call, Channels, Graph, Group
from tfstruct.graph.operation_traits import layers_with
from tfstruct.keras_internals.graph_nodes import operation_of

_SHORT = {"BatchNormalization": "BN", "Activation": "act", "Dropout": "drop", "LayerNormalization": "LN"}
_CONVOLUTIONS = layers_with("conv", "transposed", "depthwise", "separable")
# Inches.
_BOX, _HIGH, _GAP, _LANE, _ROW = 1.32, 0.50, 0.24, 0.66, 0.55
_WIDE = 7.0  # at least: the title and the line beside it
_MOST = 6  # boxes in a row: their names can be read where the picture is as wide as a page of text


@dataclasses.dataclass(frozen=True)
class Box:
    """An operation with those that work in place on its result.

    Attributes:
        name: path of the operation.
        kind: its class and kernel, and short names of what follows in place.
        width: channels of the result; None where it has no channels.
        group: index of the group they belong to, the largest where there are several; -1 where there is none.
        depth, lane: its place: the longest way from an input, and the number of the parallel branch.
    """

    name: str
    kind: str
    width: int | None
    group: int
    depth: int
    lane: int


@dataclasses.dataclass(frozen=True)
class Picture:
    """`groups`: (name, width, prunable, lossy) each; `arrows`: pairs of indices of boxes."""

    title: str
    boxes: tuple[Box, ...]
    arrows: tuple[tuple[int, int], ...]
    groups: tuple[tuple[str, int, bool, bool], ...]


def picture_of(graph: Graph, named: dict[str, Group]) -> Picture:
    """Lays out a graph."""
    uses: dict[int, int] = {}
    for tensor in [t for call in graph.calls for t in call.inputs] + list(graph.outputs):
        uses[tensor.key] = uses.get(tensor.key, 0) + 1
    of_unit = np.full(graph.units.count, -1)
    for i, group in enumerate(named.values()):
        of_unit[group.units] = i

    home: dict[int, int] = {}  # key of a tensor -> box
    names: list[str] = []
    kinds: list[str] = []
    results: list[Channels | None] = []
    depths: list[int] = []
    arrows: list[tuple[int, int]] = []
    for i, tensor in enumerate(graph.body.inputs):
        home[tensor.key] = len(names)
        names.append(operation_of(graph.body.functional.inputs[i]).name)
        kinds.append("input")
        results.append(tensor)
        depths.append(0)
    for call in graph.calls:
        joins = (call.in_place or hands_on(call)) and len(call.inputs) == 1
        first = call.inputs[0].key if joins else None
        if first is not None and uses[first] == 1 and kinds[home[first]] != "input":
            box = home[first]
            kinds[box] += f" {_SHORT.get(type(call.op).__name__, type(call.op).__name__)}"
        else:
            box = len(names)
            before = list(dict.fromkeys(home[t.key] for t in call.inputs))
            arrows += [(b, box) for b in before]
            names.append(call.path)
            kinds.append(_kind(call))
            results.append(None)
            depths.append(1 + max((depths[b] for b in before), default=0))
        results[box] = call.outputs[0] if call.outputs else None
        home |= {t.key: box for t in call.outputs}
    lanes = _lanes(depths, arrows)
    boxes = [
        Box(name, kind, *_channels(graph, tensor, of_unit), depth, lane)
        for name, kind, tensor, depth, lane in zip(names, kinds, results, depths, lanes, strict=True)
    ]
    groups = tuple((name, g.width, g.prunable, bool(g.lossy)) for name, g in named.items())
    return Picture(graph.model.name, tuple(boxes), tuple(arrows), groups)


def _kind(call: Call) -> str:
    size = call.op.kernel_size if isinstance(call.op, _CONVOLUTIONS) else None
    name = type(call.op).__name__.replace("DepthwiseConv", "DwConv").replace("GlobalAveragePooling", "GlobalAvgPool")
    return name + (f" {'×'.join(map(str, size))}" if size else "")  # noqa: RUF001


def _channels(graph: Graph, tensor, of_unit) -> tuple[int | None, int]:
    """The width of a tensor, and the group most of its channels belong to."""
    if tensor is None or not tensor.rank:
        return None, -1
    labelled = [labels for labels in tensor.axes if labels is not None]
    if not labelled:
        return tensor.shape[-1], -1
    labels = max(labelled, key=len)
    found = of_unit[graph.units.parts[labels]].ravel()
    found = found[found >= 0]
    return len(labels), int(np.bincount(found).argmax()) if len(found) else -1


def _lanes(depths: list[int], arrows) -> list[int]:
    """Each box goes on in the lane of its first source, or takes the nearest free one."""
    source: dict[int, int] = {}
    for a, b in arrows:
        if b not in source or depths[a] > depths[source[b]]:
            source[b] = a
    lanes = [0] * len(depths)
    taken: dict[int, set[int]] = {}
    for box in sorted(range(len(depths)), key=lambda i: (depths[i], i)):
        wanted = lanes[source[box]] if box in source else 0
        used = taken.setdefault(depths[box], set())
        lane = next(k for k in range(len(depths) + 1) if k >= 0 and (k not in used) and (k >= wanted or wanted in used))
        lanes[box] = lane
        used.add(lane)
    return lanes


def _colour(i: int) -> tuple[float, float, float]:
    """Neighbours in number differ in hue."""
    return colorsys.hls_to_rgb((0.58 + i * 0.618034) % 1.0, (0.80, 0.70)[i % 2], 0.55)


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Where things are, in inches.

    Attributes:
        columns: boxes in a row.
        tops: of each row of boxes, and where the last one ends.
        legend, across: groups in the legend, and how many stand side by side.
        wide, high: of the picture.
    """

    columns: int
    tops: np.ndarray
    legend: int
    across: int
    wide: float
    high: float


def _laid_out(picture: Picture) -> _Layout:
    """Rows of boxes from left to right, the rows from top to bottom."""
    depth = 1 + max((b.depth for b in picture.boxes), default=0)
    columns = -(-depth // -(-depth // _MOST))  # rows of equal length
    lanes = [1] * -(-depth // columns)
    for box in picture.boxes:
        lanes[box.depth // columns] = max(lanes[box.depth // columns], box.lane + 1)
    tops = np.cumsum([0.0] + [_ROW + n * _LANE for n in lanes])
    legend = min(len(picture.groups), 48)
    across = max(1, int(columns * (_BOX + _GAP) / 3.2))
    below = 0.16 * -(-legend // across) + 0.35
    wide = max(columns * (_BOX + _GAP) + 2 * _GAP, _WIDE)
    return _Layout(columns, tops, legend, across, wide, float(tops[-1] + below + 0.55))


def size(picture: Picture) -> tuple[float, float]:
    """Width and height of the picture in inches."""
    layout = _laid_out(picture)
    return layout.wide, layout.high


def draw(picture: Picture, axis) -> None:
    """Draws the picture on an axis of matplotlib's."""
    layout = _laid_out(picture)
    columns, tops, wide = layout.columns, layout.tops, layout.wide
    axis.set_xlim(0, wide)
    axis.set_ylim(layout.high, 0)
    axis.axis("off")
    axis.text(_GAP, 0.26, picture.title, fontsize=11, weight="bold", va="center")
    axis.text(
        wide - _GAP, 0.26, "colour: group of coupled channels; number: channels; hatched: cannot shrink", fontsize=7.5,
        va="center", ha="right", color="#555555",
    )  # fmt: skip
    corner = [
        (_GAP + (b.depth % columns) * (_BOX + _GAP), 0.45 + tops[b.depth // columns] + _ROW * 0.8 + b.lane * _LANE)
        for b in picture.boxes
    ]
    _arrows(axis, picture, corner, columns, wide)
    for box, (x, y) in zip(picture.boxes, corner, strict=True):
        _box(axis, picture, box, x, y)
    _legend(axis, picture, layout.legend, layout.across, 0.45 + tops[-1] + 0.3, wide)
    for artist in axis.get_children():
        artist.set_in_layout(False)  # long names would push the boxes aside


def _box(axis, picture, box: Box, x: float, y: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    colour = _colour(box.group) if box.group >= 0 else (0.95, 0.95, 0.95)
    frozen = box.group >= 0 and not picture.groups[box.group][2]
    shape: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=0.05", "zorder": 3}
    axis.add_patch(FancyBboxPatch((x, y), _BOX, _HIGH, facecolor=colour, edgecolor="#555555", linewidth=0.7, **shape))
    if frozen:
        hatch: dict[str, Any] = {"facecolor": "none", "edgecolor": (0, 0, 0, 0.18), "linewidth": 0, "hatch": "////"}
        axis.add_patch(FancyBboxPatch((x, y), _BOX, _HIGH, **hatch, **shape))
    name, kind = (_cut(text, n) for text, n in ((box.name, 24), (box.kind, 27)))
    behind = {"facecolor": colour, "edgecolor": "none", "pad": 0.4} if frozen else None
    text = {"va": "center", "zorder": 4, "clip_on": True, "bbox": behind}
    axis.text(x + 0.05, y + 0.12, name, fontsize=6, **text)
    axis.text(x + 0.05, y + 0.26, kind, fontsize=5, color="#333333", **text)
    if box.width is not None:
        axis.text(x + _BOX - 0.05, y + 0.40, str(box.width), fontsize=7, weight="bold", ha="right", **text)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-(most - most // 2) :]}"


def _arrows(axis, picture: Picture, corner, columns: int, wide: float) -> None:
    """Straight to the next box; in an arc over those between; along the gap above a row into it."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    head: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 6, "shrinkA": 0, "shrinkB": 0, "linewidth": 0.8}
    for n, (a, b) in enumerate(picture.arrows):
        source, target = picture.boxes[a], picture.boxes[b]
        (ax, ay), (bx, by) = corner[a], corner[b]
        middle = _HIGH / 2
        skips = target.depth - source.depth > 1
        colour = "#b05a2c" if skips else "#444444"
        if source.depth // columns == target.depth // columns:
            if not skips:
                points = [(ax + _BOX, ay + middle), (bx, by + middle)]
                codes = [Path.MOVETO, Path.LINETO]
            elif source.lane > target.lane:
                points = [(ax + _BOX, ay + middle), (bx + _BOX / 2, ay + middle), (bx + _BOX / 2, by + _HIGH)]
                codes = [Path.MOVETO, Path.LINETO, Path.LINETO]
            elif source.lane < target.lane:
                aside = ax + _BOX + _GAP * 0.4
                points = [(ax + _BOX, ay + middle), (aside, ay + middle), (aside, by + middle), (bx, by + middle)]
                codes = [Path.MOVETO] + [Path.LINETO] * 3
            else:
                over = min(ay, by) - 0.16 - 0.05 * (n % 3)
                start, end = (ax + _BOX - 0.12, ay), (bx + 0.12, by)
                points = [start, (start[0], over), (start[0] + 0.15, over), (end[0] - 0.15, over), (end[0], over), end]
                codes = [Path.MOVETO, Path.CURVE3, Path.CURVE3, Path.LINETO, Path.CURVE3, Path.CURVE3]
        else:
            out = min(ax + _BOX + _GAP * 0.45, wide - 0.05)
            into = bx - _GAP * (0.45 if not skips else 0.6)
            gap = by - 0.30 - 0.06 * (n % 3) - target.lane * _LANE
            points = [
                (ax + _BOX, ay + middle), (out, ay + middle), (out, gap), (into, gap), (into, by + middle),
                (bx, by + middle),
            ]  # fmt: skip
            codes = [Path.MOVETO] + [Path.LINETO] * 5
        axis.add_patch(FancyArrowPatch(path=Path(points, codes), color=colour, zorder=2, **head))


def _legend(axis, picture: Picture, shown: int, across: int, top: float, wide: float) -> None:
    from matplotlib.patches import Rectangle

    per = -(-shown // across) or 1
    step = (wide - 2 * _GAP) / across
    for i, (name, width, prunable, lossy) in enumerate(picture.groups[:shown]):
        x, y = _GAP + (i // per) * step, top + (i % per) * 0.16
        hatch = None if prunable else "//////"
        axis.add_patch(
            Rectangle((x, y - 0.05), 0.2, 0.1, facecolor=_colour(i), edgecolor="#777777", linewidth=0.4, hatch=hatch)
        )
        state = "" if prunable else ", frozen"
        axis.text(
            x + 0.26,
            y,
            f"{_cut(name, 30)} ({width}{state}{', not lossless' if lossy else ''})",
            fontsize=6,
            va="center",
        )
    if shown < len(picture.groups):
        axis.text(_GAP, top + per * 0.16, f"and {len(picture.groups) - shown} groups more", fontsize=6, va="center")
