"""Pictures: the one place that knows matplotlib. It is imported when something is drawn."""

import contextlib
import functools
import importlib.util
import io
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from tfstruct.errors import ArgumentError, MissingPackageError
from tfstruct.files import write_atomic
from tfstruct.markup import visible

# Okabe and Ito's colours, which people who see no red or no green can tell apart.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
GREY, LIGHT = "#888888", "#CCCCCC"
INSTALL = "pip install 'tfstruct[plot]'"
_DPI = 120
_INK = "#010203"  # stands for the colour of the page's text in an SVG
_STYLE = {
    "axes.axisbelow": True, "axes.grid": False, "axes.labelsize": 9, "axes.spines.right": False,
    "axes.spines.top": False, "axes.titlesize": 10, "font.family": "sans-serif", "grid.alpha": 0.4,
    "grid.linewidth": 0.5, "legend.fontsize": 8, "lines.linewidth": 1.3,
    "text.parse_math": False, "xtick.labelsize": 8, "ytick.labelsize": 8,
}  # fmt: skip


class Plotted:
    """Gives a class `plot`. The class says how large its picture is (`_size`, inches), of how many panels side by side
    it is made (`_panels`; 0: it divides the whole figure by itself), and draws them (`_draw`)."""

    _panels: ClassVar[int] = 1

    def _size(self) -> tuple[float, float]:
        return 6.4, 3.6

    def _draw(self, *panels: Any) -> None:
        raise NotImplementedError

    def plot(self, path: str | os.PathLike | None = None, ax=None):
        """Draws the picture. Needs matplotlib: `pip install 'tfstruct[plot]'`.

        Args:
            path: where to write it, if at all; the suffix says in what form (.png, .svg, .pdf).
            ax: a `matplotlib.axes.Axes` whose place it takes in a figure of yours; by default it has its own figure.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            MissingPackageError: matplotlib is not installed.
            ArgumentError: matplotlib does not write files of that suffix.
        """
        return draw(self._draw, self._size(), self._panels, path, ax)


def installed() -> bool:
    """Whether there is a matplotlib to draw with."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(
    drawing: Callable[..., None],
    size: tuple[float, float],
    panels: int = 1,
    path: str | os.PathLike | None = None,
    ax=None,
):
    """A figure that `drawing` fills, written to `path` if one is given.

    Args:
        drawing: takes as many axes as there are panels; with 0 panels the figure, or the part of one.
        size: width and height in inches, of a figure of its own.
        panels: side by side.
        path, ax: see `Plotted.plot`.
    """
    with style():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.text import Text

        if ax is None:
            figure = part = Figure(figsize=size, layout="constrained")
            FigureCanvasAgg(figure)
            # Notebooks know how to show a figure of pyplot only, which keeps all of its figures in memory.
            figure._repr_png_ = functools.partial(_drawn, figure, "png")  # type: ignore[attr-defined]
        else:
            if not hasattr(ax, "get_figure") or isinstance(ax, type):
                raise ArgumentError(f"`ax` must be axes of matplotlib. Received: {ax!r}.")
            figure = part = ax.get_figure(root=True)
        if path is not None:
            _check_suffix(figure, path)
        if ax is not None and panels != 1:
            part = _part_at(ax)
        if panels == 0:
            drawing(part)
        elif panels == 1:
            drawing(part.subplots() if ax is None else ax)
        else:
            drawing(*part.subplots(1, panels, squeeze=False)[0])
        for text in (part if ax is None or panels != 1 else ax).findobj(Text):
            text.set_parse_math(False)  # a name may have dollars in it
        if path is not None:
            write_figure(figure, path)
    return figure


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The style of all pictures, for as long as it is open; the user's own settings are back afterwards.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    if not installed():
        raise MissingPackageError(f"Pictures need matplotlib, which is not installed. Install it: {INSTALL}.")
    from matplotlib import rc_context, rcsetup

    colours = rcsetup.cycler(color=[BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY])
    with rc_context({**_STYLE, "axes.prop_cycle": colours}):
        yield


def logarithmic(axes, which: str) -> None:
    """Makes the axis `which` ("x" or "y") of some axes logarithmic, with plain numbers along it."""
    from matplotlib.ticker import LogFormatter

    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    axis.set_major_formatter(LogFormatter())
    axis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.5)))  # labels them where the axis spans a decade


def signed_logarithmic(axes, which: str, least: float, low: float, high: float) -> None:
    """Makes the axis `which` of some axes logarithmic on both sides of zero, with plain numbers along it.

    Args:
        least: magnitude below which nothing has to be told apart: between its decade and zero the axis is linear.
        low, high: between what the values lie.
    """
    first, last = math.floor(math.log10(least)), math.ceil(math.log10(max(-low, high)))
    apart = max(1, (last - first) // 4)
    decades = [10.0**k for k in range(first, last + 1, apart)]
    ticks = [0.0, *(sign * one for sign in (1, -1) for one in decades if low <= sign * one <= high)]
    getattr(axes, f"set_{which}scale")("symlog", linthresh=10.0**first)
    axis = getattr(axes, f"{which}axis")
    axis.set_ticks(sorted(ticks), [f"{tick:g}" for tick in sorted(ticks)])
    axis.set_ticks([], minor=True)


def svg(plot: Callable[[], Any], name: str) -> str:
    """What `plot` draws as an SVG element for a page, whose text has the page's colour; it refers to nothing outside.

    Args:
        plot: returns a figure.
        name: of the picture, unlike those of others on the page.
    """
    with style():
        from matplotlib import rc_context

        inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
        settings = {**dict.fromkeys(inks, _INK), "svg.fonttype": "none", "svg.hashsalt": name}
        buffer = io.StringIO()
        with rc_context({**settings, "legend.framealpha": 0.0}):
            unsigned = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            plot().savefig(buffer, format="svg", transparent=True, metadata=unsigned)
    text = buffer.getvalue()
    text = "\n".join(map(visible, text[text.index("<svg") :].replace(_INK, "currentColor").splitlines()))
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text)  # of groups: nothing refers to them, and pictures share them
    return re.sub(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", r'<svg \1 role="img">', text, count=1)


def _drawn(figure, form: str) -> bytes:
    """The bytes of a picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, dpi=_DPI)
    return buffer.getvalue()


def write_figure(figure, path: str | os.PathLike) -> None:
    """Writes a figure, whole or not at all."""
    write_atomic(path, _drawn(figure, _check_suffix(figure, path)))


def _check_suffix(figure, path) -> str:
    if not isinstance(path, str | os.PathLike):
        raise ArgumentError(f"`path` must be the name of a file. Received: {path!r}.")
    form = pathlib.Path(path).suffix.lower().lstrip(".")
    known = figure.canvas.get_supported_filetypes()
    if form not in known:
        names = ", ".join(f".{name}" for name in ("png", "svg", "pdf"))
        raise ArgumentError(f"Expected the name of a picture, such as one that ends in {names}. Received: {path!r}.")
    return form


def _part_at(ax):
    """The part of a figure where an Axes is, to be divided; the Axes itself is not seen any more."""
    from matplotlib.gridspec import GridSpec

    spec = ax.get_subplotspec()
    if spec is None:
        box = ax.get_position()
        sides = {"left": box.x0, "right": box.x1, "bottom": box.y0, "top": box.y1}
        spec = GridSpec(1, 1, figure=ax.get_figure(), **sides)[0]
    ax.set_axis_off()
    return ax.get_figure().add_subfigure(spec)
