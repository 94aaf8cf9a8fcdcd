"""Working folders of `compress`: one that is done, one that was stopped while it trained, and one of a search."""

import pathlib
import random
import shutil
import sys

import mutations

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "tools"))


def _compress(folder: pathlib.Path):
    """As kept files are made."""
    import keep_files

    from tfstruct.compression import Search

    search = Search(trials=2, generation=2, objectives=("quality", "macs"), start=False)
    strategy = search if folder.name == "search" else None
    return keep_files.compress(keep_files.network(), folder, strategy, verbose=0)


def make(folder: pathlib.Path) -> None:
    """One of each kind; what a `Search` keeps is told by the folder's name."""
    for name in ("done", "search"):
        _compress(folder / name)
    stopped = folder / "stopped"
    shutil.copytree(folder / "done", stopped)
    last = sorted(stopped.glob("*-quantize"))[0]
    for name in ("model.keras", "stage.json"):
        (last / name).unlink()


def read(path: pathlib.Path):
    """Calls `compress` again, as after a kill."""
    return _compress(path)


def use(made) -> None:
    """Reads what came out."""
    str(made.report), made.report.to_json(), made.report.to_html()


def database_of(content: bytes, rng: random.Random) -> bytes:
    """A database of SQLite with another value in one of its cells, a table that is gone, or other bytes."""
    import sqlite3

    if rng.random() < 0.4:
        return mutations.bytes_of(content, rng)
    with sqlite3.connect(":memory:") as base:
        base.deserialize(content)
        tables = [name for (name,) in base.execute("select name from sqlite_master where type = 'table'")]
        filled = [name for name in tables if base.execute(f"select 1 from {name} limit 1").fetchone()]
        table = rng.choice(filled)
        columns = [row[1] for row in base.execute(f"pragma table_info({table})")]
        row = rng.choice(base.execute(f"select rowid, * from {table}").fetchall())
        column = rng.randrange(len(columns))
        value = row[1 + column]
        what = rng.random()
        try:
            if what < 0.08:
                base.execute(f"delete from {table} where rowid = ?", row[:1])
            elif what < 0.12:
                base.execute(f"drop table {table}")
            else:
                if isinstance(value, str) and value[:1] in '{["' and what < 0.8:
                    other = mutations.json_of(value.encode(), rng).decode("utf-8", "replace")
                else:
                    other = mutations.nasty(rng)
                    other = other if isinstance(other, str | float | None) else str(other)
                base.execute(f"update {table} set {columns[column]} = ? where rowid = ?", (other, row[0]))
        except (sqlite3.Error, UnicodeError):  # what SQLite does not store there
            return mutations.bytes_of(content, rng)
        base.commit()
        return base.serialize()
