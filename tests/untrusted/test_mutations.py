"""Changed files of every form that is read: no crash, no hang, no code, nothing touched outside, bounded memory, and
errors of tfstruct that name the file.

`pytest -m slow -s tests/untrusted/test_mutations.py` reads 100,000 of them, a process a form; TFSTRUCT_MUTATIONS is
another number. What goes wrong is told by form and number: `python hostile_worker.py FORM NUMBER 1 FOLDER` reads that
one again.
"""

import json
import os
import pathlib
import queue
import subprocess
import sys
import threading
import time

import hostile_formats
import pytest
from hostile_formats import FORMATS

from tfstruct.errors import TfstructError

WORKER = pathlib.Path(__file__).with_name("hostile_worker.py")
TOTAL = sum(form.count for form in FORMATS.values())
ASKED = int(os.environ.get("TFSTRUCT_MUTATIONS", TOTAL))
LONGEST = 10.0  # seconds of processor for one file
LONGEST_WALL = 120.0  # where other processes have the processor
STARTING = 300.0
MOST_ENDED = 5


def test_there_are_enough():
    assert TOTAL >= 100_000


def run(name: str, first: int, count: int, folder: pathlib.Path) -> tuple[dict, int | None, str]:
    """One process over some numbers: what it says at its end, or the number that ended it and how."""
    command = [sys.executable, str(WORKER), name, str(first), str(count), str(folder)]
    with open(folder / f"{name}.err", "w") as err:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True)
    lines: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_told, args=(process.stdout, lines), daemon=True).start()
    number, used, since, last = None, 0.0, time.monotonic(), ""
    try:
        while True:
            try:
                line = lines.get(timeout=1.0)
            except queue.Empty:
                limit = LONGEST if number is not None else STARTING
                spent, waited = _cpu(process.pid) - used, time.monotonic() - since
                if spent > limit or waited > max(LONGEST_WALL, limit):
                    return {}, number, f"does not end: {spent:.0f} s of processor, {waited:.0f} s in all"
                continue
            if not line:
                break
            last = line
            if line.startswith("@"):
                number, used, since = int(line[1:]), _cpu(process.pid), time.monotonic()
    finally:
        process.kill()
        status = process.wait()
    if last.startswith("{"):
        return json.loads(last), None, ""
    return {}, number, f"ends the process: status {status}, {(folder / f'{name}.err').read_text()[-500:]}"


def _told(stream, lines: queue.SimpleQueue) -> None:
    """Hands on each line when it comes: the one that says which file is read tells how long it takes."""
    for line in stream:
        lines.put(line)
    lines.put("")


def _cpu(pid: int) -> float:
    """Seconds of processor that a process has used."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not os.path.exists("/proc"), reason="watches processes through /proc")
def test_a_file_that_does_not_end_is_named(tmp_path, monkeypatch):
    worker = tmp_path / "worker.py"
    worker.write_text("import time\nfor n in (0, 1):\n    print('@', n, flush=True)\ntime.sleep(60)\n")
    monkeypatch.setattr(sys.modules[__name__], "WORKER", worker)
    monkeypatch.setattr(sys.modules[__name__], "LONGEST_WALL", 0.5)
    monkeypatch.setattr(sys.modules[__name__], "LONGEST", 0.5)
    found, number, how = run("plan", 0, 3, tmp_path)
    assert (found, number) == ({}, 1) and how.startswith("does not end")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="watches processes through /proc and inotify")
@pytest.mark.parametrize("name", FORMATS)
def test_changed_files_are_read_or_refused(name, tmp_path):
    count = max(1, round(FORMATS[name].count * ASKED / TOTAL))
    first, read, refused, wrong, ended = 0, 0, 0, [], 0
    while first < count:
        found, number, how = run(name, first, count - first, tmp_path)
        read, refused = read + found.get("read", 0), refused + found.get("refused", 0)
        wrong += found.get("wrong", [])
        if number is None and how:
            pytest.fail(f"{name}: the process {how}")
        if number is None:
            break
        wrong.append([number, how, ""])
        first, ended = number + 1, ended + 1
        if ended == MOST_ENDED:
            break
    print(f"\n{name}: {count:,} changed files, {read:,} read, {refused:,} refused, {len(wrong)} wrong")
    assert wrong == []


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """The good files of a form, made once."""
    made: dict[str, list[pathlib.Path]] = {}

    def of(name: str) -> list[pathlib.Path]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            FORMATS[name].make(folder)
            made[name] = sorted(folder.iterdir())
        return made[name]

    return of


@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form.quick])
@pytest.mark.filterwarnings("ignore")
def test_a_few_changed_files(name, seeds, tmp_path):
    form = FORMATS[name]
    for seed in seeds(name):
        form.use(form.read(seed))
    for number in range(form.quick):
        place = tmp_path / str(number)
        place.mkdir()
        path, made = hostile_formats.changed(form, seeds(name), number, place), None
        try:
            made = form.read(path)
            form.use(made)
        except TfstructError as error:
            assert "\n" not in str(error), number
            assert made is not None or not form.names or path.stem in str(error), (number, str(error))
