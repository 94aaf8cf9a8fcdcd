"""The base of all reports."""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from tfstruct.errors import ArgumentError
from tfstruct.files import write_atomic
from tfstruct.markup import Html, element, page
from tfstruct.reporting import figures
from tfstruct.reporting.tables import Sheet


class Report:
    """What a call found or did. Text, tables, plain data and files of it all come from one `Sheet`.

    A subclass is a frozen dataclass with `sheet`; one with a picture is also `Plotted`. `to_dict` has the fields, those
    declared with `repr=False` excepted, and the properties that `_derived` names.
    """

    _derived: ClassVar[tuple[str, ...]] = ()

    def sheet(self) -> Sheet:
        """The report as rows under columns, and the lines around them."""
        raise NotImplementedError

    def _whole_sheet(self) -> Sheet:
        """`sheet`, and what a base class adds to all of its reports."""
        return self.sheet()

    def table(self):
        """A `rich.table.Table`, for `rich.console.Console().print`."""
        return self._whole_sheet().rich()

    def __str__(self) -> str:
        return self._whole_sheet().text()

    def _repr_html_(self) -> str:
        style = ".tfstruct td,.tfstruct th{text-align:left}.tfstruct .n{text-align:right}"
        return element("div", Html(f"<style>{style}</style>"), self._whole_sheet().html(), class_="tfstruct")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; a number that is not finite is None, as JSON has none."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # subclasses are dataclasses
        names = [field.name for field in fields if field.repr]
        return {name: plain(getattr(self, name)) for name in (*names, *self._derived)}

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    def to_html(self) -> str:
        """One page that needs neither network nor other files; with the picture, where matplotlib is installed."""
        sheet = dataclasses.replace(self._whole_sheet(), title="")
        parts = [sheet.html()]
        if isinstance(self, figures.Plotted) and figures.installed():
            parts.append(element("div", Html(figures.svg(self.plot, type(self).__name__)), class_="picture"))
        return page(self._whole_sheet().title or type(self).__name__, *parts)

    def to_markdown(self) -> str:
        """The report in Markdown."""
        return self._whole_sheet().markdown()

    def to_csv(self) -> str:
        """The table as comma-separated values, numbers unrounded."""
        return self._whole_sheet().csv()

    def save(self, path: str | os.PathLike) -> None:
        """Writes the report, whole or not at all, in the form that the suffix of `path` says: `.json`, `.html`, `.txt`,
        `.md`, or `.csv` where it has a table.

        Raises:
            ArgumentError: another suffix.
        """
        forms: dict[str, Callable[[], str]] = {
            ".html": self.to_html, ".json": self.to_json, ".md": self.to_markdown, ".txt": lambda: f"{self}\n",
        }  # fmt: skip
        if self._whole_sheet().columns:
            forms[".csv"] = self.to_csv
        suffix = pathlib.Path(path).suffix.lower()
        if suffix not in forms:
            text = "a text (.txt) or a table (.csv)" if ".csv" in forms else "a text (.txt)"
            raise ArgumentError(
                f"Expected the name of {text}, or one that ends in .html, .json, .md. Received: {os.fspath(path)!r}."
            )
        write_atomic(path, forms[suffix]().encode())


def plain(value) -> Any:
    """Data as JSON has it: dataclasses and mappings are dicts, sequences and arrays lists, NaN and infinity None."""
    if hasattr(value, "to_dict"):
        return plain(value.to_dict())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.repr}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if hasattr(value, "tolist"):  # NumPy's arrays and numbers
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)
