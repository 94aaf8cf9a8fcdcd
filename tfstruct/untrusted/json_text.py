"""JSON of files from elsewhere: its size is checked before it becomes objects, and it fails in one way."""

import json
from typing import Any

LARGEST = 16 << 20  # bytes of text
# A list takes 3 bytes of text and 56 of memory; the descriptions of the largest models hold some ten thousand.
_MOST_LISTS = 500_000


def parse(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: no JSON, no text, or more than any description holds; in one line.
    """
    if not isinstance(text, str | bytes):
        raise ValueError("it is no text")
    if len(text) > LARGEST:
        raise ValueError(f"it has more than {LARGEST:,} bytes, as no description does")
    marks = (b"[", b"{") if isinstance(text, bytes) else ("[", "{")
    if sum(map(text.count, marks)) > _MOST_LISTS:
        raise ValueError(f"it holds more than {_MOST_LISTS:,} lists and objects, as no description does")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it nests too deep for any description") from None
