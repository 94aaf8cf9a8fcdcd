"""Where the architectures of `published_*.py` are noted down."""

from collections.abc import Callable


def registry() -> tuple[dict[str, Callable], Callable, Callable]:
    """Models by name, and decorators that add one: of a builder of a pair (the model, and the shapes that a subclassed
    one is opened with), and of a builder of a functional model."""
    models: dict[str, Callable] = {}

    def add(function):
        models[function.__name__] = function
        return function

    def functional(function):
        models[function.__name__] = lambda: (function(), None)
        return function

    return models, add, functional
