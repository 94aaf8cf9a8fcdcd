"""Which known class an operation computes as: a subclass of a user may compute something else."""

import functools
from collections.abc import Iterable

import keras

# What a subclass may do in its own way and still compute the same: how it is made, described, stored and shaped.
_AROUND = frozenset((
    "add_weight", "build", "build_from_config", "compute_mask", "compute_output_shape", "compute_output_spec",
    "count_params", "enable_lora", "from_config", "get_build_config", "get_config", "load_assets",
    "load_own_variables", "save_assets", "save_own_variables",
))  # fmt: skip


def kind_of(op: keras.Operation, kinds: Iterable[type]) -> type | None:
    """The nearest of `kinds` that an operation is an instance of, if it computes as that does, else None.

    It does where no class of a user between the two gives `call` or another method or property that computing may
    use a new meaning: `convolution_op`, `kernel`.
    """
    own: type = type(op)
    found = next((kind for kind in own.__mro__ if kind in kinds), None)
    return found if found is None or _computes_as(own, found) else None


def built_in_name(op: keras.Operation) -> str:
    """The name of the class of Keras that an operation computes as; "" for none."""
    own: type = type(op)
    found = next((kind for kind in own.__mro__ if _package(kind) == "keras"), None)
    return found.__name__ if found is not None and _computes_as(own, found) else ""


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]


@functools.lru_cache(maxsize=4096)
def _computes_as(own: type, kind: type) -> bool:
    if getattr(own, "call", None) is not getattr(kind, "call", None):
        return False
    between = own.__mro__[: own.__mro__.index(kind)]
    return not any(
        _computes(name, value) and hasattr(kind, name)
        for cls in between
        if _package(cls) not in ("keras", "tfstruct")  # their rules know what they do
        for name, value in vars(cls).items()
    )


def _computes(name: str, value) -> bool:
    if name in _AROUND or (name.startswith("__") and name != "__call__"):
        return False
    return callable(value) or isinstance(value, property | classmethod | staticmethod)
