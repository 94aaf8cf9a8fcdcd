"""The file of a packed model: a description and arrays, with a checksum over all of it."""

import hashlib
import json
import lzma
from collections.abc import Iterator, Sequence

import numpy as np

from tfstruct.convert.packing import arrays
from tfstruct.errors import ModelError
from tfstruct.untrusted import json_text

_MAGIC = b"\x89TFPACK\n"
_VERSION = 1
_CHECKSUM = 16
# What a container may take in memory: some of it does no harm, and few distinct values give a ratio of 32 at most, with
# indices and codes on the way.
_HARMLESS = 256 << 20
# What unpacking the description takes: its code can have parts of its own.
_DESCRIPTION = 8 * json_text.LARGEST
_MOST_ARRAYS = 100_000
_LARGEST_RATIO = 100


def write(description: dict, coded: Sequence[bytes]) -> bytes:
    """A container of a description (data for JSON) and coded arrays."""
    text = json.dumps(description, separators=(",", ":")).encode()
    body = b"".join([_MAGIC, bytes([_VERSION]), arrays.encode(arrays.bit_patterns(text)).content, *coded])
    return body + _checksum(body)


def read(content: bytes, name: str) -> tuple[dict, Iterator[np.ndarray]]:
    """The description and the arrays, which are decoded one by one as they are asked for.

    Args:
        content: what `write` made.
        name: what errors call it.

    Raises:
        ModelError: other bytes, damaged or cut short, a later version, or more memory than a model of its size takes;
            also while the arrays are read.
    """
    if content[: len(_MAGIC)] != _MAGIC:
        raise ModelError(f"{name} is no packed model, which begins with {_MAGIC!r}. Received {content[:8]!r}.")
    if len(content) < len(_MAGIC) + 1 + _CHECKSUM or _checksum(content[:-_CHECKSUM]) != content[-_CHECKSUM:]:
        raise ModelError(f"{name} is damaged or cut short: its checksum is another. Transfer or pack it again.")
    if content[len(_MAGIC)] != _VERSION:
        raise ModelError(f"{name} has version {content[len(_MAGIC)]}, this tfstruct reads {_VERSION}. Update tfstruct.")
    reader = arrays.Reader(content[len(_MAGIC) + 1 : -_CHECKSUM], _DESCRIPTION)
    stream = _decoded(reader, name)
    try:
        description = json_text.parse(next(stream, np.zeros(0, np.uint8)).tobytes())
    except ValueError as error:
        raise malformed(name, error) from None
    reader.limit(max(_HARMLESS, _LARGEST_RATIO * len(content)))
    return description, stream


def malformed(name: str, error: Exception) -> ModelError:
    """For a container that was made to mislead: its checksum is right, what it holds is not."""
    return ModelError(f"{name} is no packed model as tfstruct writes it: {error or type(error).__name__}.")


def _decoded(reader: arrays.Reader, name: str) -> Iterator[np.ndarray]:
    count = 0
    while not reader.done:
        count += 1
        if count > _MOST_ARRAYS:
            raise malformed(name, ValueError(f"it holds more than {_MOST_ARRAYS:,} arrays"))
        try:
            yield arrays.decode(reader)
        except ModuleNotFoundError:
            raise ModelError(f"{name} was packed with zstd. Install it: pip install 'tfstruct[pack]'.") from None
        except _damage() as error:
            raise malformed(name, error) from None


def _damage() -> tuple[type[Exception], ...]:
    """What reading arrays raises of which a byte is another."""
    found = (ValueError, KeyError, IndexError, OverflowError, lzma.LZMAError)
    if arrays.squeezer() != "zstd":
        return found
    import zstandard

    return (*found, zstandard.ZstdError)


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_CHECKSUM).digest()
