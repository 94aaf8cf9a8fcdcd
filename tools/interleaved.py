"""What every benchmark shares: works timed in turn in one process, and a table of them as text, JSON and Markdown."""

import datetime
import gc
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import resource
import statistics
import time
from collections.abc import Callable, Container, Mapping, Sequence

Work = Callable[[], object]
CPU, WALL = "CPU s", "wall s"


def medians(works: Mapping[str, Work], rounds: int) -> dict[str, float]:
    """Median CPU seconds by name, see `costs`."""
    return {name: cost[CPU] for name, cost in costs(works, rounds).items()}


def costs(works: Mapping[str, Work], rounds: int, once: Container[str] = ()) -> dict[str, dict[str, float]]:
    """Median CPU and wall seconds by name, those of child processes too.

    Each round runs every work once, in turn; one round more, the first, warms up. Works in `once` are timed in one.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for round_ in range(rounds + 1):
        for name, work in works.items():
            if name in once and round_ > 1:
                continue
            gc.collect()
            cpu, wall = cpu_seconds(), time.perf_counter()
            work()
            if round_:
                times[name].append((cpu_seconds() - cpu, time.perf_counter() - wall))
    return {
        name: dict(zip((CPU, WALL), map(statistics.median, zip(*found, strict=True)), strict=True))
        for name, found in times.items()
    }


def slopes(sizes: Sequence[float], rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Least squares of log(cost) over log(size), by column: 1 is a cost that grows as the size does."""
    x = [math.log(size) for size in sizes]
    mean = sum(x) / len(x)
    return {
        name: sum((a - mean) * math.log(row[name]) for a, row in zip(x, rows, strict=True))
        / sum((a - mean) ** 2 for a in x)
        for name in rows[0]
    }


def cpu_seconds() -> float:
    """CPU seconds of this process and of its children, ended or not."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    tick = os.sysconf("SC_CLK_TCK")
    alive = sum((int(fields[11]) + int(fields[12])) / tick for fields in _children())
    return time.process_time() + ended.ru_utime + ended.ru_stime + alive


def _children() -> list[list[str]]:
    """Linux's `stat` of every child, from the state on; none on other systems."""
    found = []
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if entry.isdigit():
            fields = _read(f"/proc/{entry}/stat").rpartition(")")[2].split()
            if fields and int(fields[1]) == os.getpid():
                found.append(fields)
    return found


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:  # it has ended
        return ""


class Table:
    """Rows of one benchmark; with a folder they are kept in `<name>.json` there, and `<name>.md` shows them.

    A row that the file has from a run with the same settings is not measured again, so that a run that was stopped goes
    on where it was.

    Args:
        name: of the files; `settings`: whatever makes rows comparable, such as the number of rounds.
    """

    def __init__(self, name: str, title: str, settings: dict, folder: str | None = None):
        self.name, self.title = name, title
        self.settings = json.loads(json.dumps({**settings, **_machine()}))  # as it is read from the file
        self.rows: dict[str, dict] = {}
        self._path = pathlib.Path(folder) / f"{name}.json" if folder else None
        if self._path is not None and self._path.exists():
            before = json.loads(self._path.read_text())
            if before["settings"] == self.settings:
                self.rows = before["rows"]

    def row(self, key: str, measure: Callable[[], dict]) -> dict:
        """The row `key`, measured if it is not there yet: plain data by column."""
        if key not in self.rows:
            self.rows[key] = measure()
            self._write()
        return self.rows[key]

    def replace(self, key: str, row: dict) -> None:
        """Puts a row in place of the one that `key` has, for rows that are made of others."""
        self.rows[key] = row
        self._write()

    def _columns(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows.values() for name in row))

    def _write(self) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        when = datetime.date.today().isoformat()
        found = {"benchmark": self.name, "title": self.title, "date": when, "settings": self.settings}
        self._path.write_text(json.dumps({**found, "rows": self.rows}, indent=1))
        self._path.with_suffix(".md").write_text(self.markdown())

    def markdown(self) -> str:
        columns = self._columns()
        lines = [f"| {self.title} | " + " | ".join(columns) + " |", "|---" + "|---:" * len(columns) + "|"]
        lines += [
            f"| {key} | " + " | ".join(_shown(row.get(c)) for c in columns) + " |" for key, row in self.rows.items()
        ]
        return "\n".join(lines) + "\n"

    def show(self) -> None:
        from rich.console import Console
        from rich.table import Table as Drawn

        drawn = Drawn(title=f"{self.title}; {self.settings}")
        drawn.add_column("")
        for column in self._columns():
            drawn.add_column(column, justify="right")
        for key, row in self.rows.items():
            drawn.add_row(key, *(_shown(row.get(column)) for column in self._columns()))
        Console(width=200).print(drawn)  # wide, as columns are named in full


def _shown(value) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:#.3g}".rstrip(".")
    return f"{value:,}" if isinstance(value, int) else str(value)


def _machine() -> dict:
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")}
    return {**versions, "machine": platform.machine(), "cores": os.cpu_count()}
