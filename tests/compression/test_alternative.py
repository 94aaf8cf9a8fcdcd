"""Parts, their alternatives, and what excludes each other: plain data."""

import json

import pytest

from tfstruct.compression.alternatives.alternative import Alternative, Conflict, Part
from tfstruct.errors import RecipeError

PART = Part.of("form of conv", "factorize", [Alternative("svd, rank 8", {"rank": 8})], ["conv"])


def test_the_first_alternative_is_the_part_as_it_is():
    assert [one.name for one in PART.alternatives] == ["as it is", "svd, rank 8"]
    assert PART.index("svd, rank 8") == 1
    with pytest.raises(RecipeError, match=r"as it is, svd, rank 8\. Received: 'cp'"):
        PART.index("cp")


def test_parts_are_plain_data():
    assert Part.from_dict(json.loads(json.dumps(PART.to_dict()))) == PART


def test_what_is_refused():
    with pytest.raises(RecipeError, match="must be the part as it is"):
        Part("form of conv", "factorize", (Alternative("svd", {"rank": 8}),), ("conv",))
    with pytest.raises(RecipeError, match="different names"):
        Part.of("form of conv", "factorize", [Alternative("svd"), Alternative("svd")], ["conv"])


def test_a_conflict_excludes_both_at_once_only():
    conflict = Conflict(("block add", 1), ("form of conv", 2), "conv goes with the block")
    assert conflict.excludes({"block add": 1, "form of conv": 2, "other": 0})
    assert not conflict.excludes({"block add": 1, "form of conv": 0})
    assert not conflict.excludes({"block add": 1})
