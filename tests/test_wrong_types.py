"""Every argument of the public calls in `public_calls`, given what it is not: an error that says what was expected, or
a value that is taken."""

import re
import warnings

import keras
import numpy as np
import public_calls
import pytest

from tfstruct.errors import TfstructError


class Unlike:
    """An object that is like nothing."""

    def __repr__(self) -> str:
        return "Unlike()"


WRONG = {
    "None": None,
    "text": "wrong",
    "path": "no/such/file.x",
    "half": 1.5,
    "negative": -1,
    "zero": 0,
    "true": True,
    "nan": float("nan"),
    "infinite": float("inf"),
    "huge": 10**400,
    "list": [],
    "list of None": [None],
    "mixed": [1, "a"],
    "dict": {},
    "dict of None": {"a": None},
    "bytes": b"x",
    "array": np.full((2, 3), np.nan),
    "texts": np.array(["a", "b"]),
    "object": Unlike(),
    "class": Unlike,
    "Keras class": keras.layers.Dense,
    "layer": keras.layers.Dense(2, name="elsewhere"),
    "unbuilt": keras.Sequential([keras.layers.Dense(2)]),
    "model": keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(name="flat")], name="other"),
    "function": lambda: 1 / 0,
}
SAYS = re.compile(
    r"must be|out-of-range|[Ee]xpected|should be|supported|Could not interpret|Invalid value|Unknown `config`"
)
CASES = [(name, argument) for name in public_calls.GOOD for argument in public_calls.arguments(name)]


def wrong(name: str, argument: str) -> list[str]:
    """What a call raises that is no error of ours, by the value that was given."""
    found = []
    for what, value in WRONG.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                public_calls.call(name, {**public_calls.GOOD[name](), argument: value})
            except TfstructError as error:
                if not str(error).strip():
                    found.append(f"{what}: an empty message")
            except Exception as error:
                if isinstance(error, ValueError | TypeError) and (SAYS.search(str(error)) or callable(value)):
                    continue  # Keras's own, or what calling the value raised
                if isinstance(error, ZeroDivisionError) and what == "function":
                    continue
                found.append(f"{what}: {type(error).__name__}: {' '.join(str(error).split())[:150]}")
    return found


def test_every_public_call_has_a_row():
    assert set(public_calls.names()) == set(public_calls.GOOD)


@pytest.mark.parametrize("name", public_calls.GOOD)
def test_the_rows_are_right(name):
    public_calls.call(name, public_calls.GOOD[name]())


@pytest.mark.parametrize(("name", "argument"), CASES, ids=lambda value: value)
@pytest.mark.sweep(30)
def test_what_is_wrong_is_said(name, argument, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a text may be taken for the path of a file to write
    assert wrong(name, argument) == []
