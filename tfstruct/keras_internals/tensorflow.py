"""TensorFlow's own lists of operators, and functions inside its graphs."""

import importlib
import os
import sys


def operators_of(module: str) -> set[str]:
    """The names that a module of TensorFlow's generated operators defines, such as `"gen_math_ops"`."""
    return set(vars(importlib.import_module(f"tensorflow.python.ops.{module}")))


def is_operator(name: str) -> bool:
    """Whether TensorFlow has an operator of this name."""
    from tensorflow.python.framework import op_def_registry

    return op_def_registry.get(name) is not None


def inner_graph(graph, name: str):
    """The graph of a function that a graph defines; None where it defines none of that name."""
    return getattr(graph._functions.get(name), "graph", None)


def read_instead(operation, place: int, tensor) -> None:
    """Makes an operation of a graph that is being traced read another tensor of the same shape and dtype."""
    operation._update_input(place, tensor)


def lacks_threads() -> bool:
    """Whether this process was forked from one in which TensorFlow had started already. Its threads stayed there: a
    compiled function, and so `fit` and `predict`, would wait for them for ever."""
    return _lacks_threads


_lacks_threads = False


def _after_fork() -> None:
    global _lacks_threads
    loaded = sys.modules.get("tensorflow.python.eager.context")
    context = getattr(loaded, "_context", None)
    _lacks_threads = _lacks_threads or bool(getattr(context, "_initialized", False))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
