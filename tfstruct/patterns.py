"""Which layers a pattern means: a name, a path or a glob, the same wherever layers are named."""

import fnmatch


def matches(pattern: str, path: str) -> bool:
    """True if `pattern` names the layer at `path`, or a block that it stands in.

    A pattern is a name (`"conv1"`), a path (`"backbone/conv1"`) or a glob (`"block_*"`, whose `*` goes on across `/`).
    """
    parts = path.split("/")
    blocks = ["/".join(parts[: i + 1]) for i in range(len(parts) - 1)]
    return names_layer(pattern, path) or any(fnmatch.fnmatchcase(name, pattern) for name in (*parts, *blocks))


def names_layer(pattern: str, path: str) -> bool:
    """True if `pattern` names the layer at `path` itself: its path, or its own name."""
    return any(fnmatch.fnmatchcase(name, pattern) for name in (path, path.rpartition("/")[2]))
