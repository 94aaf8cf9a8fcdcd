"""Which layer a node of a TensorFlow graph came from, by the name scopes in which it stands."""

from collections.abc import Mapping


def scope_at(node_name: str, scopes: Mapping[str, str]) -> str | None:
    """The innermost of the scopes in which a graph node stands; None outside all."""
    parts = node_name.split("/")
    return next((s for end in range(len(parts), 0, -1) if (s := "/".join(parts[:end])) in scopes), None)


def layer_at(node_name: str, scopes: Mapping[str, str]) -> str | None:
    """The path of the Keras layer in whose scope a graph node stands, the innermost one; None outside all."""
    scope = scope_at(node_name, scopes)
    return None if scope is None else scopes[scope]
