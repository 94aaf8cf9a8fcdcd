"""Which layers a user means: by a pattern (a name, a path or a glob), or by `open_layers`; the same everywhere."""

import fnmatch

from tfstruct.errors import ArgumentError, TfstructError


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


def check_open_layers(open_layers, error: type[TfstructError] = ArgumentError) -> None:
    """Refuses a value of `open_layers` that says neither that custom layers are opened nor that they are not.

    Raises:
        error: neither `"auto"` nor False.
    """
    if open_layers is not False and not (isinstance(open_layers, str) and open_layers == "auto"):
        raise error(f"`open_layers` must be 'auto' (custom layers are opened) or False. Received: {open_layers!r}.")
