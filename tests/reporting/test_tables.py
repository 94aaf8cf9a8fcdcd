"""Lines that several reports share."""

from tfstruct.reporting.tables import by_reason, named


def test_names_in_one_line():
    assert named("abcabd") == "a, b, c, d"
    assert named("abcdef", 2) == "a, b and 4 more"


def test_one_line_for_each_reason():
    reasons = {"a": "no rule", "b": "an output", **dict.fromkeys("cdefg", "no rule")}
    assert by_reason("stays whole", reasons) == [
        "stays whole: a, c, d, e and 2 more: no rule",
        "stays whole: b: an output",
    ]
