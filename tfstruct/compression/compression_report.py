"""`CompressionReport`: what `compress` did, to be read, drawn, written."""

import os
import pathlib

from tfstruct.compression import model_card, report_pictures
from tfstruct.compression.report_data import ReportData
from tfstruct.compression.report_page import report_page
from tfstruct.errors import ArgumentError
from tfstruct.files import write_atomic


class CompressionReport(ReportData):
    """The report of one compression; its attributes are those of `ReportData`."""

    def plot(self, name: str | None = None):
        """A matplotlib figure: candidates by accuracy and cost with their Pareto front, widths before and after,
        sensitivity, confusion before and after, worst samples, as far as there are data for them.

        Args:
            name: of one picture alone: `"front"`, `"widths"`, `"sensitivity"`, `"confusion"`, `"worst"`.
        """
        return report_pictures.plot(self, name)

    def to_html(self) -> str:
        """One page that needs neither network nor other files. Its pictures need matplotlib; without it, it says so.
        It shows the worst of the validation samples: look at it before you give it away."""
        return report_page(self)

    def model_card(self) -> str:
        """Markdown: what the model is, how to use its file, data, figures, limits."""
        return model_card.model_card(self)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the report, whole or not at all, as the suffix of `path` says: `.html`, `.json`, or `.md` for the
        model card."""
        forms = {".html": self.to_html, ".json": self.to_json, ".md": self.model_card}
        suffix = pathlib.Path(path).suffix
        if suffix not in forms:
            raise ArgumentError(f"Expected a name that ends in {', '.join(forms)}. Received: {os.fspath(path)!r}.")
        write_atomic(path, forms[suffix]().encode())
