"""The layers of a Keras model by path, and a way to stand in for their calls."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import keras


def layer_paths(model: keras.Model) -> dict[str, keras.layers.Layer | keras.Operation]:
    """Path -> layer or operation, for every one in the model, those inside nested models and layers too."""
    found: dict[str, keras.Operation] = {}
    seen: set[int] = {id(model)}

    def visit(parent, prefix):
        inner = list(getattr(parent, "_layers", []))
        if isinstance(parent, keras.Model) and hasattr(parent, "operations"):
            inner = [*parent.operations, *inner]
        for op in inner:
            if id(op) in seen or isinstance(op, keras.layers.InputLayer):
                continue
            seen.add(id(op))
            # A Sequential keeps a functional twin of itself; it is no layer of its own.
            path = prefix if isinstance(op, keras.Model) and op.name == parent.name else f"{prefix}{op.name}/"
            if path != prefix:
                found.setdefault(path[:-1], op)
            visit(op, path)

    visit(model, "")
    return found


def layer_at(node_name: str, scopes: Mapping[str, str]) -> str | None:
    """The path of the Keras layer in whose scope a graph node stands, the innermost one; None outside all."""
    parts = node_name.split("/")
    for end in range(len(parts), 0, -1):
        path = scopes.get("/".join(parts[:end]))
        if path is not None:
            return path
    return None


@contextlib.contextmanager
def intercepted(
    ops: Mapping[str, keras.Operation], route: Callable[[str, keras.Operation, Callable], Callable]
) -> Iterator[None]:
    """While it is open, each operation's `call` is `route(path, operation, call)`; afterwards as before."""
    try:
        for path, op in ops.items():
            object.__setattr__(op, "call", route(path, op, op.call))
        yield
    finally:
        for op in ops.values():
            op.__dict__.pop("call", None)


@contextlib.contextmanager
def without_activation(op) -> Iterator[Callable | None]:
    """While it is open, the layer leaves out its own activation, which is handed out."""
    own = op.activation
    object.__setattr__(op, "activation", keras.activations.linear)
    try:
        yield own
    finally:
        object.__setattr__(op, "activation", own)
