"""Any bit patterns come back; few values, zeros and structure are found; hostile bytes are refused."""

import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfstruct.convert.packing import arrays

DTYPES = [np.uint8, np.uint16, np.uint32, np.uint64]


def restored(coded, room=1 << 26):
    reader = arrays.Reader(coded.content, room)
    found = arrays.decode(reader)
    assert reader.done
    return found


def assert_comes_back(values):
    patterns = arrays.bit_patterns(values, values.dtype.itemsize)
    coded = arrays.encode(patterns)
    again = restored(coded)
    assert again.dtype == patterns.dtype and again.tobytes() == values.tobytes()
    return coded


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, st.integers(0, 200), fill=st.sampled_from([0, 1, 255]))
    )
)
def test_any_patterns_come_back(values):
    assert_comes_back(values)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.sampled_from(DTYPES), st.integers(0, 5000), st.integers(1, 40), st.floats(0, 1), st.integers(0, 99))
def test_few_values_and_zeros_come_back(dtype, count, distinct, zeros, seed):
    rng = np.random.default_rng(seed)
    table = rng.integers(0, np.iinfo(dtype).max, distinct, dtype, endpoint=True)
    assert_comes_back(np.where(rng.random(count) < zeros, 0, rng.choice(table, count)).astype(dtype))


def test_floats_come_back_by_their_bits():
    odd = np.array([0x7FC00001, 0xFFC12345, 0x7F800000, 0x80000000, 0, 1], np.uint32).view(np.float32)
    assert np.isnan(odd[:2]).all() and np.signbit(odd[3])  # NaN with a payload, infinity, -0.0, a subnormal
    assert_comes_back(np.tile(odd, 50))
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float64, np.bool_, np.int8, "V2", "V3"):
        assert_comes_back(np.arange(24, dtype=np.uint8).view(dtype))


@pytest.mark.parametrize("values", [np.zeros(0, "f4"), np.float32(2.5), np.full(5000, -1.25), np.zeros(5000, "f4")])
def test_empty_scalar_constant(values):
    coded = assert_comes_back(np.asarray(values))
    assert len(coded.content) <= 35


def test_each_kind_of_weight_takes_the_code_that_suits_it():
    rng = np.random.default_rng(0)
    normal = rng.normal(size=20_000).astype("f4")
    clustered = np.sort(rng.normal(size=16).astype("f4"))[np.clip(np.round(normal * 3 + 8), 0, 15).astype(int)]
    sparse = np.where(rng.random(20_000) < 0.9, 0, normal)
    integers = np.clip(np.round(normal * 30), -127, 127).astype(np.int8)
    rows = np.tile(integers[:250], 80)  # equal filters
    coded = {name: assert_comes_back(v) for name, v in locals().items() if name not in ("rng", "coded")}
    assert coded["clustered"].how.startswith("palette")
    share = np.unique(clustered, return_counts=True)[1] / 20_000
    assert len(coded["clustered"].content) < 20_000 / 8 * (-share @ np.log2(share)) * 1.04 + 120
    assert coded["sparse"].how.startswith("sparse")
    assert len(coded["sparse"].content) < 2_000 * 4 * 0.86 + 20_000 / 8 * 0.48  # values; 0.469 bits a place
    assert len(coded["normal"].content) < 0.87 * normal.nbytes  # signs and exponents alone
    assert len(coded["integers"].content) < 0.9 * integers.nbytes
    assert coded["rows"].how in ("zstd", "LZMA") and len(coded["rows"].content) < 500


def test_without_zstandard_lzma_takes_its_place(monkeypatch):
    values = np.arange(3000, dtype=np.uint16)
    with_zstd = arrays.encode(values)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert arrays.squeezer() == "lzma" and arrays.zstd_size(b"x") is None
    coded = assert_comes_back(values)
    assert coded.how == "LZMA" and with_zstd.how == "zstd"
    with pytest.raises(ModuleNotFoundError):
        restored(with_zstd)


def test_sizes_are_not_believed():
    coded = arrays.encode(np.zeros(1 << 20, np.uint64))
    assert len(coded.content) < 20
    with pytest.raises(ValueError, match="more memory"):
        restored(coded, room=1 << 20)
    long = b"r\x08" + b"\xff\xff\xff\xff\xff\xff\x7f"
    with pytest.raises(ValueError, match="ends early"):
        arrays.decode(arrays.Reader(long, 1 << 62))
    with pytest.raises(ValueError, match="too large"):
        arrays.decode(arrays.Reader(b"r\x08" + b"\xff" * 20, 1 << 60))
    with pytest.raises(ValueError, match="nested too deep"):
        arrays.decode(arrays.Reader(b"p\x01\x01" * 50, 1 << 20))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.sampled_from(["normal", "few", "sparse"]), st.integers(0, 10_000), st.integers(0, 255))
def test_changed_bytes_give_an_array_or_a_known_error(kind, place, byte):
    rng = np.random.default_rng(0)
    values = {
        "normal": rng.integers(0, 1 << 32, 300, np.uint32),
        "few": rng.integers(0, 5, 3000).astype(np.uint32) << 20,
        "sparse": (rng.random(3000) < 0.05).astype(np.uint16) * 1234,
    }[kind]
    content = bytearray(arrays.encode(values).content)
    content[place % len(content)] = byte
    try:
        found = arrays.decode(arrays.Reader(bytes(content), 1 << 20))
    except Exception as error:
        assert isinstance(error, (ValueError, KeyError, IndexError, OverflowError, *container_errors()))
    else:
        assert found.nbytes <= 1 << 20


def container_errors():
    import lzma

    import zstandard

    return lzma.LZMAError, zstandard.ZstdError
