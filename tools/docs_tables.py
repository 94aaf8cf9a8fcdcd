"""Puts the tables of benchmarks into docs/benchmarks.md: `python tools/docs_tables.py [FOLDER]`.

FOLDER, by default tools/results, has what `tools/bench.py NAME --out FOLDER` wrote. A table goes between the lines
`<!-- NAME -->` and `<!-- end of NAME -->`; nobody writes there by hand.
"""

import pathlib
import sys

HERE = pathlib.Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"


def main(folder: pathlib.Path) -> None:
    text = PAGE.read_text()
    for path in sorted(folder.glob("*.md")):
        begin, end = f"<!-- {path.stem} -->\n", f"<!-- end of {path.stem} -->"
        if begin in text:
            before, rest = text.split(begin)
            text = f"{before}{begin}{path.read_text()}{end}{rest.split(end, 1)[1]}"
    PAGE.write_text(text)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results")
