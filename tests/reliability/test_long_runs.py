"""Ten thousand steps and two hundred conversions in one process: memory stays flat, nothing is traced again or left."""

import os

import numpy as np
import pytest
from jobs import LONG
from kills import ended

pytestmark = pytest.mark.slow
STEPS = int(os.environ.get("RELIABILITY_STEPS", "10000"))
CONVERSIONS = int(os.environ.get("RELIABILITY_CONVERSIONS", "200"))


def growth(values: list[int], count: int) -> float:
    """Bytes for each of `count`: the slope between the medians of the second and the last quarter."""
    parts = np.array_split(np.array(values, float), 4)
    return float((np.median(parts[3]) - np.median(parts[1])) / (count / 2))


@pytest.mark.parametrize("compressors", LONG)
def test_many_steps(forks, tmp_path, compressors):
    found = ended(forks, "long", tmp_path, compressors=compressors, count=STEPS).outcome["held"]
    by_step = growth([one["memory"] for one in found], STEPS)
    first, last = found[1], found[-1]
    print(f"\n{compressors}: {STEPS} steps, {by_step:.0f} bytes a step, traced {last['traced']} times: {first} {last}")
    assert by_step < 1000
    assert last["traced"] == first["traced"] and last["files"] <= first["files"] and last["folders"] == 0
    assert last["threads"] <= first["threads"]


def test_many_conversions(forks, tmp_path):
    found = ended(forks, "conversions", tmp_path, count=CONVERSIONS).outcome
    held = found["held"]
    each = growth([one["memory"] for one in held], CONVERSIONS)
    first, last = held[len(held) // 4], held[-1]
    print(f"\n{CONVERSIONS} conversions, {each / 1e3:.0f} kB each: {first} {last}")
    assert each < 1e6 and found["files"] == 2
    assert last["files"] <= first["files"] + 1 and last["folders"] == 0 and last["threads"] <= first["threads"] + 1
