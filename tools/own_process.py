"""What one work costs in a process of its own: time, and the peak of memory above what the process held before."""

import json
import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from interleaved import cpu_seconds


def row_of(script: str, *arguments) -> dict:
    """The row that a script prints as its last line, in JSON, when it is run with arguments."""
    command = [sys.executable, os.path.abspath(script), *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def measured(work: Callable[[], bytes]) -> dict:
    """CPU and wall seconds, the peak of memory above what is held now, and the file's bytes."""
    before, peak, done = _held(), [0.0], threading.Event()

    def watch():
        while not done.wait(0.05):
            peak[0] = max(peak[0], _held())

    watching = threading.Thread(target=watch)
    watching.start()
    cpu, wall = cpu_seconds(), time.perf_counter()
    content = work()
    row = {"CPU s": cpu_seconds() - cpu, "wall s": time.perf_counter() - wall}
    done.set()
    watching.join()
    return {**row, "bytes": len(content), "MB": peak[0] - before}


def _held() -> float:
    """Megabytes of this process and of its children, as Linux says."""
    parents: dict[int, int] = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
    mine = {os.getpid()}
    while more := {one for one, parent in parents.items() if parent in mine} - mine:
        mine |= more
    pages = 0
    for one in mine:
        try:
            pages += int(pathlib.Path(f"/proc/{one}/statm").read_text().split()[1])
        except OSError:
            continue
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
