"""Writes the pages of the API reference, one a room, from what each room exports: `python tools/api_pages.py`."""

import importlib
import inspect
import pathlib

import tfstruct
from tfstruct import errors

DOCS = pathlib.Path(__file__).parents[1] / "docs" / "api"
# What no user calls.
LEFT_OUT = ("errors", "graph", "reporting", "samples", "tfmot")


def pages() -> dict[str, str]:
    """File name -> text."""
    found = {"errors.md": _page("errors", _errors())}
    for room in tfstruct._ROOMS:
        if room not in LEFT_OUT:
            package = importlib.import_module(f"tfstruct.{room}")
            values = [getattr(package, name) for name in sorted(package.__all__)]
            # Errors that a room exports again have their place on the page of all errors.
            found[f"{room}.md"] = _page(
                room, [one for one in values if getattr(one, "__module__", "") != errors.__name__]
            )
    for namespace in ("sparsity", "clustering", "quantization"):
        module = importlib.import_module(f"tfstruct.tfmot.{namespace}.keras")
        own = [one for one in vars(module).values() if getattr(one, "__module__", "") == module.__name__]
        found[f"tfmot-{namespace}.md"] = _page(f"tfmot.{namespace}.keras", [one for one in own if _is_public(one)])
    return found


def _errors() -> list:
    return [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, Exception)]


def _page(room: str, values: list) -> str:
    said = inspect.getdoc(importlib.import_module(f"tfstruct.{room}")).splitlines()[0]
    summary = said.removesuffix(" The names load on first use.")
    public = dict.fromkeys(f"::: {one.__module__}.{one.__qualname__}" for one in values if _is_public(one))
    return "\n\n".join([f"# tfstruct.{room}", summary, *public]) + "\n"


def _is_public(one) -> bool:
    ours = getattr(one, "__module__", "").startswith("tfstruct.")
    return ours and (inspect.isclass(one) or inspect.isfunction(one)) and not one.__name__.startswith("_")


if __name__ == "__main__":
    DOCS.mkdir(exist_ok=True)
    for name, text in pages().items():
        (DOCS / name).write_text(text)
        print(f"  - {name.removesuffix('.md').replace('-', '.')}: api/{name}")
