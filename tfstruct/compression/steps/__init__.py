"""What a strategy is made of, one kind of step a file: it is found by being here, and loads on first use."""

from tfstruct.compression.steps.step import Step, kinds

__all__ = ["Step"]


def __getattr__(name: str):
    if not name.startswith("_"):
        for kind in kinds():
            if kind.__name__ == name:
                return kind
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["Step", *(kind.__name__ for kind in kinds())]
