"""Codes by hand, optimal by the entropy bound, limited, and back from bits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfstruct.convert.packing import huffman


def restored(symbols, lengths):
    bits, sizes = huffman.encode(symbols, lengths)
    assert int(sizes.sum()) == len(bits)
    return huffman.decode(bits, sizes, lengths, len(symbols))


def test_code_by_hand():
    # a: 5, b: 2, c: 1, d: 1, e never: c and d join to 2, with b to 4, with a to 9.
    lengths = huffman.code_lengths(np.array([5, 2, 1, 1, 0]))
    assert lengths.tolist() == [1, 2, 3, 3, 0]
    # Canonical: a 0, b 10, c 110, d 111.
    bits, sizes = huffman.encode(np.array([0, 3, 1, 2]), lengths)
    assert np.unpackbits(np.frombuffer(bits, np.uint8)).tolist() == [0, 1, 1, 1, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert sizes.tolist() == [2]


def test_average_length_lies_within_a_bit_of_the_entropy():
    counts = np.random.default_rng(0).integers(1, 1000, 50)
    share = counts / counts.sum()
    entropy = -share @ np.log2(share)
    assert entropy <= share @ huffman.code_lengths(counts) < entropy + 1


def test_lengths_are_limited_where_the_tree_is_deeper():
    counts = [1, 1]
    while len(counts) < 40:
        counts.append(counts[-1] + counts[-2])  # Fibonacci numbers make the deepest tree
    lengths = huffman.code_lengths(np.array(counts))
    assert lengths.max() == huffman.LONGEST and np.sum(2.0 ** -lengths.astype(float)) <= 1
    symbols = np.arange(40)
    np.testing.assert_array_equal(restored(symbols, lengths), symbols)


@pytest.mark.parametrize("count", [0, 1, 1023, 1024, 1025, 512 * 1024 + 1])  # around a lane and a block of lanes
def test_lanes_and_blocks(count):
    symbols = np.random.default_rng(count).geometric(0.3, count) % 30
    lengths = huffman.code_lengths(np.bincount(symbols, minlength=31))
    np.testing.assert_array_equal(restored(symbols, lengths), symbols)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, huffman.LARGEST_ALPHABET - 1), min_size=1, max_size=300))
def test_any_symbols_come_back(symbols):
    symbols = np.array(symbols)
    np.testing.assert_array_equal(restored(symbols, huffman.code_lengths(np.bincount(symbols))), symbols)


@pytest.mark.parametrize(
    ("lengths", "sizes", "message"),
    [([1, 1, 1], [1], "Kraft"), ([1, 17], [1], "too long"), ([1, 1], [2], "lanes"), ([1, 1], [1, 0], "lanes")],
)
def test_what_is_no_code_is_refused(lengths, sizes, message):
    with pytest.raises(ValueError, match=message):
        huffman.decode(b"\x00", np.array(sizes, np.uint16), np.array(lengths, np.uint8), 8)
