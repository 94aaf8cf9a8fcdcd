"""For mkdocstrings, whose parser knows neither the section "Example:" nor several names in one line."""

import re

import griffe

# "    low, high: text", with the lines that go on further in.
_SEVERAL = re.compile(r"^( +)(\*{0,2}\w+(?:, \*{0,2}\w+)+):( .*(?:\n\1 +\S.*)*)", re.MULTILINE)


def _apart(found: re.Match) -> str:
    return "\n".join(f"{found[1]}{name}:{found[3]}" for name in found[2].split(", "))


class Examples(griffe.Extension):
    """Renames the section, which is code, and gives each name a line, before docstrings are parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = _SEVERAL.sub(_apart, text)
