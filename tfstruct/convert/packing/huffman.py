"""Canonical Huffman codes of small alphabets, in NumPy.

Symbols are coded in lanes of `LANE`, each of which starts at a byte: all lanes are decoded at once, one symbol of every
lane a step.
"""

import heapq

import numpy as np

LARGEST_ALPHABET = 4096
LONGEST = 16  # bits of a code
LANE = 1024  # symbols
_BLOCK = 512  # lanes that are coded at a time


def code_lengths(counts: np.ndarray) -> np.ndarray:
    """Bits of each symbol's code, uint8: 0 for a symbol that does not occur, at most `LONGEST`.

    Huffman's tree; where it is deeper than `LONGEST`, counts are halved, n <- (n + 1) // 2, until it is not.

    Args:
        counts: how often each symbol occurs, at most `LARGEST_ALPHABET` symbols.

    Source: Huffman 1952, "A Method for the Construction of Minimum-Redundancy Codes".
    """
    lengths = np.zeros(len(counts), np.uint8)
    used = np.flatnonzero(counts)
    weights = np.asarray(counts, np.int64)[used]
    depths = _depths(weights)
    while depths.size and depths.max() > LONGEST:
        weights = (weights + 1) // 2
        depths = _depths(weights)
    lengths[used] = depths
    return lengths


def _depths(weights: np.ndarray) -> np.ndarray:
    """The depth of each leaf in Huffman's tree."""
    count = len(weights)
    if count < 2:
        return np.ones(count, int)
    heap = [(int(weight), leaf) for leaf, weight in enumerate(weights)]
    heapq.heapify(heap)
    parents = np.zeros(2 * count - 1, int)
    for node in range(count, 2 * count - 1):
        (first, left), (second, right) = heapq.heappop(heap), heapq.heappop(heap)
        parents[[left, right]] = node
        heapq.heappush(heap, (first + second, node))
    depths = np.zeros(2 * count - 1, int)
    for node in range(2 * count - 3, -1, -1):
        depths[node] = depths[parents[node]] + 1
    return depths[:count]


def encode(symbols: np.ndarray, lengths: np.ndarray) -> tuple[bytes, np.ndarray]:
    """The bits of the symbols' codes, and how many bytes each lane takes (uint16)."""
    order, spans = _spans(lengths)
    codes = np.zeros(len(lengths), np.uint32)
    codes[order] = np.cumsum(spans) - spans  # the code at the upper end of 16 bits
    decoded, sizes = [], []
    for start in range(0, len(symbols), _BLOCK * LANE):
        block = symbols[start : start + _BLOCK * LANE]
        bits = np.zeros(-(-len(block) // LANE) * LANE, np.int64)
        bits[: len(block)] = lengths[block]
        ends = np.cumsum(bits.reshape(-1, LANE), axis=1)
        taken = (ends[:, -1] + 7) // 8
        first = 8 * (np.cumsum(taken) - taken)
        places = (first[:, None] + ends).ravel()[: len(block)] - bits[: len(block)]
        shifted = codes[block] << (8 - (places & 7)).astype(np.uint32)  # within three bytes
        size = int(taken.sum())
        out = np.zeros(size + 2)
        for byte in range(3):  # codes share bytes, never bits: sums are unions
            part = (shifted >> np.uint32(16 - 8 * byte)) & np.uint32(0xFF)
            out += np.bincount((places >> 3) + byte, part, size + 2)
        decoded.append(out[:size].astype(np.uint8).tobytes())
        sizes.append(taken.astype(np.uint16))
    return b"".join(decoded), np.concatenate([*sizes, np.zeros(0, np.uint16)])


def decode(coded: bytes, sizes: np.ndarray, lengths: np.ndarray, count: int) -> np.ndarray:
    """The inverse of `encode`: `count` symbols, uint16.

    Raises:
        ValueError: lengths that are no code, or lanes that do not make up `coded` and `count`.
    """
    order, spans = _spans(lengths)
    lanes = -(-count // LANE)
    if len(sizes) != lanes or int(sizes.sum(dtype=np.int64)) != len(coded) or (count and not len(order)):
        raise ValueError("Huffman lanes do not fit what they hold")
    if not count:
        return np.zeros(0, np.uint16)
    # Whatever 16 bits come next, here is the symbol that they begin with.
    symbol_at, length_at = np.zeros((2, 1 << LONGEST), np.uint16)
    known = int(spans.sum())
    symbol_at[:known] = np.repeat(order, spans)
    length_at[:known] = np.repeat(lengths[order], spans)
    # The last lane may be shorter: it reads on behind its end, and what it finds there is cut off.
    data = np.frombuffer(coded + bytes(LANE * LONGEST // 8 + 3), np.uint8).astype(np.uint32)
    three = (data[:-2] << 16) | (data[1:-1] << 8) | data[2:]
    places = 8 * (np.cumsum(sizes, dtype=np.int64) - sizes)
    out = np.empty((min(LANE, count), lanes), np.uint16)
    for row in out:
        window = (three[places >> 3] >> (8 - (places & 7)).astype(np.uint32)) & 0xFFFF
        row[:] = symbol_at[window]
        places += length_at[window]
    return out.T.reshape(-1)[:count]


def _spans(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Symbols in the order of their codes, and how many of all 16-bit strings begin with each code."""
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    if lengths.size and lengths.max() > LONGEST:
        raise ValueError("a Huffman code is too long")
    spans = 1 << (LONGEST - lengths[order].astype(np.int64))
    if spans.sum() > 1 << LONGEST:
        raise ValueError("code lengths break Kraft's inequality")
    return order, spans
