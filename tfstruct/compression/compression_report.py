"""`CompressionReport`: what `compress` did, to be read, drawn, written."""

import os
import pathlib

from tfstruct.compression import model_card, report_pictures
from tfstruct.compression.report_data import ReportData
from tfstruct.compression.report_page import report_page
from tfstruct.reporting import Plotted


class CompressionReport(Plotted, ReportData):
    """The report of one compression; its attributes are those of `ReportData`. Saved as `.md` it is a model card."""

    def plot(self, path: str | os.PathLike | None = None, ax=None, *, name: str | None = None):
        """Draws candidates by accuracy and cost with their Pareto front, channels before and after, sensitivity,
        confusion before and after, worst samples, as far as there are data for them. Needs matplotlib.

        Args:
            path, ax: see `tfstruct.reporting.Plotted.plot`; a word without a suffix is taken for `name`.
            name: of one picture alone: `"front"`, `"widths"`, `"sensitivity"`, `"confusion"`, `"worst"`.

        Returns:
            The `matplotlib.figure.Figure`.
        """
        if isinstance(path, str) and not pathlib.Path(path).suffix:
            path, name = None, path
        return report_pictures.plot(self, path, ax, name)

    def to_html(self) -> str:
        """One page that needs neither network nor other files. Its pictures need matplotlib; without it, it says so.
        It shows the worst of the validation samples: look at it before you give it away."""
        return report_page(self)

    def model_card(self) -> str:
        """Markdown: what the model is, how to use its file, data, figures, limits."""
        return model_card.model_card(self)

    to_markdown = model_card
