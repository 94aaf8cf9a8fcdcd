"""Text made harmless for terminals, HTML and Markdown; HTML pages that need nothing but themselves: light and dark,
readable on a phone."""

import html
import re
from collections.abc import Container, Iterable, Sequence

_STYLE = """
:root{color-scheme:light dark;
--text:#1a1a1a;--page:#fff;--line:#ddd;--soft:#666;--fill:#f4f4f4;--mark:#fff4d6;--bar:#4a7fb5}
@media(prefers-color-scheme:dark){
:root{--text:#e4e4e4;--page:#17191c;--line:#3a3d42;--soft:#a0a0a0;--fill:#22252a;--mark:#453a1c;--bar:#6c9fd3}}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:60rem;padding:1rem;color:var(--text);
background:var(--page);overflow-wrap:break-word}
h1{font-size:1.4rem}h2{font-size:1.15rem;margin-top:2.2rem}h3{font-size:1rem;margin-bottom:.3rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
th.n{white-space:normal}
.warning td,.mark{background:var(--mark)}
.track{min-width:6rem;padding-top:.45rem}
.bar{background:var(--bar);height:.7rem;border-radius:2px}
.strong td{font-weight:600}
.soft,.soft td,footer{color:var(--soft);font-size:.85rem}
.note{padding:.5rem .8rem;border-radius:4px;background:var(--fill)}
.note.mark{background:var(--mark)}
.picture svg{display:block;width:100%;max-width:40rem;height:auto}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(6rem,1fr));gap:.8rem}
.cards figure{margin:0;padding:.5rem;background:var(--fill);border-radius:4px}
.cards img,.cards svg{display:block;width:100%;image-rendering:pixelated}
figcaption{font-size:.85rem;margin-top:.3rem}
details{margin:.4rem 0}summary{cursor:pointer}
footer{margin-top:2rem}
@media(max-width:34rem){table{font-size:.8rem}th,td{padding:.25rem .3rem}}
"""


# Control characters, line separators, marks that turn the direction of writing, and halves of surrogate pairs: in a
# terminal they hide or move what stands around them, or cannot be written at all.
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_MARKS = re.compile(r"[\\`*_\[\]|#]")


def visible(value) -> str:
    """A value's text, with what cannot be seen in it written out: `\\n`, `\\x1b`, `\\u202e`."""
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), str(value))


def markdown(value) -> str:
    """Any value as Markdown that shows its text, in one line."""
    text = html.escape(" ".join(str(value).split()), quote=False)
    return _MARKS.sub(r"\\\g<0>", visible(text))


class Html(str):
    """Text that is HTML already, and not escaped again."""

    __slots__ = ()


def escaped(value) -> Html:
    """Any value as HTML that shows its text."""
    return value if isinstance(value, Html) else Html(html.escape(visible(value)))


def element(tag: str, *inside, **attributes: str) -> Html:
    """`<tag name="value">inside</tag>`; what is inside is escaped unless it is `Html`, `class_` is written `class`."""
    given = "".join(f' {name.rstrip("_")}="{html.escape(value)}"' for name, value in attributes.items() if value)
    return Html(f"<{tag}{given}>{''.join(map(escaped, inside))}</{tag}>")


def table(
    rows: Iterable[Sequence],
    header: Sequence[str] | None = None,
    classes: Sequence[str] = (),
    numbers: Container[int] = (),
) -> Html:
    """A table that scrolls in a box of its own where it is wider than the page.

    Args:
        rows: cells; text is escaped.
        header: of the columns.
        classes: of the rows, as far as it goes.
        numbers: the columns that are aligned to the right.
    """

    def row(tag, cells, kind=""):
        inside = [element(tag, cell, class_="n" if i in numbers else "") for i, cell in enumerate(cells)]
        return element("tr", *inside, class_=kind)

    lines = [row("th", header)] if header else []
    lines += [row("td", cells, classes[i] if i < len(classes) else "") for i, cells in enumerate(rows)]
    return element("div", element("table", *lines), class_="scroll")


def folded(title: str, *inside) -> Html:
    """What is shown when its title is touched."""
    return element("details", element("summary", title), *inside)


def page(title: str, *inside) -> str:
    """A whole page; no script, nothing that is loaded from elsewhere."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escaped(title)}</title><style>{_STYLE}</style></head><body>{element('h1', title)}"
        f"{''.join(map(escaped, inside))}<footer>Written by tfstruct.</footer></body></html>\n"
    )
