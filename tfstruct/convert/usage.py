"""How to use a file, as Markdown: what goes in, what comes out, and code that runs it."""

import importlib.metadata
import re
from collections.abc import Iterable, Sequence

import numpy as np

import tfstruct
from tfstruct.convert.ports import Port
from tfstruct.markup import markdown
from tfstruct.reporting.tables import shape


def usage(inputs: Sequence[Port], outputs: Sequence[Port], file: str = "model.tflite") -> str:
    """What goes in and comes out, and Python code that runs the file."""
    tables = [markdown_table(["", "name", "shape", "stored as"], [_port("input", one) for one in inputs])]
    tables[0] += "\n" + "\n".join(_line(_port("output", one)) for one in outputs)
    names = [f"input_{i}" for i in range(len(inputs))] if len(inputs) > 1 else ["x"]
    lines = [
        "import numpy as np", "from ai_edge_litert.interpreter import Interpreter", "",
        f"interpreter = Interpreter({file!r})", "interpreter.allocate_tensors()",
    ]  # fmt: skip
    for name, port in zip(names, inputs, strict=True):
        lines.append(f"interpreter.set_tensor({port.index}, {_encoded(name, port)})")
    lines.append("interpreter.invoke()")
    for i, port in enumerate(outputs):
        name = "y" if len(outputs) == 1 else f"output_{i}"
        lines.append(f"{name} = {_decoded(f'interpreter.get_tensor({port.index})', port)}")
    about = f"`{'`, `'.join(names)}`: real numbers, as the model takes them, in the shape above."
    script = "```python\n" + "\n".join(lines) + "\n```"
    return "\n\n".join([*tables, about, script])


def _port(side: str, port: Port) -> tuple[str, ...]:
    stored = f"{port.dtype.name}, {port.to_real}" if port.scale else port.dtype.name
    return side, code(port.name), shape(port.shape), stored


def _encoded(name: str, port: Port) -> str:
    if not port.scale:
        return f'np.asarray({name}, "{port.dtype.name}")'
    limits = np.iinfo(port.dtype)
    whole = f"np.round(np.asarray({name}) / {port.scale!r}) + {port.zero_point}"
    return f'np.clip({whole}, {limits.min}, {limits.max}).astype("{port.dtype.name}")'


def _decoded(stored: str, port: Port) -> str:
    return f'({stored}.astype("float32") + {-port.zero_point}) * {port.scale!r}' if port.scale else stored


def code(name: str) -> str:
    """A name as code; one of other than plain characters as harmless text."""
    return f"`{name}`" if re.fullmatch(r"[\w./: -]+", name) else markdown(name)


def clipped(inputs: Iterable[Port]) -> list[str]:
    """A sentence for every input whose values have limits."""
    limits = {port.name: port.limits for port in inputs}
    return [
        f"Values of {code(name)} outside {found[0]:.4g} to {found[1]:.4g} are clipped."
        for name, found in limits.items()
        if found
    ]


def versions() -> dict[str, str]:
    """Of tfstruct and what files are made with."""
    names = ("keras", "tensorflow", "ai-edge-litert")
    return {"tfstruct": tfstruct.__version__, **{name: importlib.metadata.version(name) for name in names}}


def markdown_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table; the cells have to be harmless."""
    header = list(header)
    return "\n".join([_line(header), _line(["---"] * len(header)), *map(_line, rows)])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
