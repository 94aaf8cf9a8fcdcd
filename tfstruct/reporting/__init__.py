"""How results are shown: one base for every report, its table in all forms, and pictures in one style."""

from tfstruct import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "Report": "report",
        "plain": "report",
        "Result": "result",
        "ChangeReport": "result",
        "carrying": "result",
        "Sheet": "tables",
        "Plotted": "figures",
        "draw": "figures",
    },
)
