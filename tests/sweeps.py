"""Sweeps over many cases: a few that cover all kinds always, the others by `pytest -m slow`."""

import pytest


def sweep(cases, quick):
    """The cases for `pytest.mark.parametrize`, all but `quick` slow. A tuple is one case of several arguments."""
    cases, quick = list(cases), list(quick)
    if missing := [case for case in quick if case not in cases]:
        raise ValueError(f"`quick` must be among the cases. Received: {missing}")
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=() if case in quick else pytest.mark.slow)
        for case in cases
    ]
