"""How results are shown: one base for every report, its table in all forms, and pictures in one style.

- `figures.py`: pictures: the one place that knows matplotlib. It is imported when something is drawn
- `report.py`: the base of all reports
- `opened.py`: the base of those on models whose custom layers are opened first
- `result.py`: what every call from model to model hands back, and every one that changes a model in place
- `tables.py`: what a report shows, as rows under columns; and these as text, rich table, HTML, Markdown and CSV
"""

from tfstruct import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "Report": "report",
        "OpenedReport": "opened",
        "plain": "report",
        "Result": "result",
        "ChangeReport": "result",
        "InPlaceReport": "result",
        "carrying": "result",
        "Sheet": "tables",
        "Plotted": "figures",
        "draw": "figures",
    },
)
