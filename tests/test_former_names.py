"""Arguments by their former names."""

import warnings

import pytest

from tfstruct.errors import ArgumentError, ArgumentTypeError, TfstructError
from tfstruct.former_names import formerly


@formerly(observer="calibrator", mode=lambda mode: {} if mode == "auto" else {"greater_is_better": mode == "max"})
def choose(data, calibrator="minmax", greater_is_better=None):
    if calibrator not in ("minmax", "mse"):
        raise ArgumentError(f"`calibrator` must be minmax or mse. Received: {calibrator!r}.")
    return data, calibrator, greater_is_better


def test_present_names_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose(1, "mse") == choose(1, calibrator="mse") == (1, "mse", None)


@pytest.mark.parametrize(
    "given, made, said",
    [
        ({"observer": "mse"}, (1, "mse", None), r"choose\(observer=...\) is now choose\(calibrator='mse'\)"),
        ({"mode": "max"}, (1, "minmax", True), r"is now choose\(greater_is_better=True\)"),
        ({"mode": "auto"}, (1, "minmax", None), "takes no `mode` any more"),
    ],
)
def test_former_names_do_the_same_and_say_so(given, made, said):
    with pytest.warns(FutureWarning, match=said) as record:
        assert choose(1, **given) == made
    assert record[0].filename == __file__


def test_an_error_names_the_argument_as_it_was_given():
    with pytest.raises(ArgumentError, match="`calibrator` must be minmax or mse"):
        choose(1, calibrator="guess")
    with pytest.warns(FutureWarning), pytest.raises(ArgumentError, match="`observer` must be minmax or mse"):
        choose(1, observer="guess")


def test_both_names_are_refused():
    with pytest.raises(ArgumentTypeError, match="`observer` is the former name of `calibrator`: give one of the two"):
        choose(1, observer="mse", calibrator="mse")
    assert issubclass(ArgumentTypeError, TfstructError)
    with pytest.warns(FutureWarning), pytest.raises(TypeError):  # as of any function
        choose(1, "mse", observer="mse")
