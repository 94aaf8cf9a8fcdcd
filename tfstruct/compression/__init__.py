"""From a trained model and a budget to the file that ships. The names load on first use.

The function is `tfstruct.compress`.
"""

from tfstruct import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "compress": "compressing",
        "Task": "task",
        "Settings": "task",
        "carry_out": "execution",
        "StrategyResult": "execution",
        "Progress": "progress",
        "Budget": "budget",
        "Limits": "budget",
        "Candidate": "candidate",
        "Compressed": "compressed",
        "CompressionReport": "compression_report",
        "Decision": "decision",
        "Stage": "stage",
        "Step": "steps.step",
        "Search": "search.searching",
        "search_strategies": "search.searching",
        "SearchReport": "search.search_report",
        "Space": "search.space",
        "Trial": "search.trial",
        "steps": None,
    },
)
