"""SIGTERM: the command removes what it has made halfway, says one line and ends with 143."""

import shutil
import signal

import numpy as np
import pytest
from commands import COMMANDS, contents
from forking import Kill
from kills import POINTS, ended, temporary

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", COMMANDS)
def test_sigterm(forks, given, tmp_path, name):
    out, work = tmp_path / "out", tmp_path / "work"
    out.mkdir()
    arguments = [one.format(out=out, work=work) for one in COMMANDS[name]]
    whole = ended(forks, "command", given, arguments=arguments)
    before = contents(out)
    rng = np.random.default_rng([2, *name.encode()])
    told = []
    for _ in range(POINTS):
        if rng.integers(2):
            kill = Kill(int(rng.integers(1, whole.events + 1)), number=signal.SIGTERM)
        else:
            kill = Kill(seconds=float(rng.uniform(0, whole.seconds)), number=signal.SIGTERM)
        shutil.rmtree(work, ignore_errors=True)  # what is done in it would be read only
        found = forks.run("command", given, kill, arguments=arguments)
        status = found.status if found.outcome is None else found.outcome["status"]
        told.append(f"{kill}: {status}")
        assert status in (-signal.SIGTERM, 128 + signal.SIGTERM, whole.outcome["status"]), (told[-1], found)
        if status == 128 + signal.SIGTERM:
            assert found.outcome["said"].splitlines() == ["tfstruct: stopped by SIGTERM"], found.outcome
            assert temporary(forks) == set(), told[-1]
        assert contents(out).keys() == before.keys(), told[-1]
        if name != "prune":  # Keras's files have the time in them
            assert {f: c for f, c in contents(out).items() if f.endswith(".tflite")} == {
                f: c for f, c in before.items() if f.endswith(".tflite")
            }
    print(f"\n{name}: {'; '.join(told)}")
    # What came before the command listens ends it at once, and what came at its very end is too late.
    assert sum(f": {128 + signal.SIGTERM}" in one for one in told) >= POINTS / 2, told
