"""NPUs through LiteRT: what the vendor's compiler plugin, which ai-edge-litert brings, places on the NPU.

The plugin asks the vendor's own compiler, a library of the vendor's SDK. Where that is installed, the plugin divides
the file in a child process, as LiteRT's ahead-of-time compilation does; elsewhere the operators that the vendor
documents are the rule.

The packages `ai-edge-litert-sdk-qualcomm`, `-mediatek` and `-google-tensor` are small: installing one downloads its SDK
from the vendor, under the vendor's terms. This was written where these could not be had; the division itself was tried
with the plugin of Intel, whose compiler, OpenVINO, is a package of its own.
"""

import dataclasses
import functools
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence

from tfstruct.convert import flatbuffer
from tfstruct.convert.devices.device import Device, Verdict
from tfstruct.convert.devices.reading import Reading, held_against
from tfstruct.convert.flatbuffer import Operator
from tfstruct.errors import ConversionError
from tfstruct.files import TemporaryFolder
from tfstruct.reporting.tables import counted

_DISPATCHED = "DISPATCH_OP"  # the custom operator that stands for a part on the NPU
_TOOL = "tools/apply_plugin_main"
_BY_NAME = "by name and type, as documented: the compiler may leave more to the CPU"
_LINES = ("error", "could not", "cannot", "failed")


@dataclasses.dataclass(frozen=True)
class Vendor:
    """Who makes an NPU, and how its compiler is found.

    Attributes:
        folder: of the plugin, in ai-edge-litert.
        manufacturer, soc: as the plugin calls them.
        package: on PyPI, with the compiler or what downloads it.
        libraries: the folder with the compiler's libraries; None where it is not installed.
        options: for the plugin.
    """

    folder: str
    manufacturer: str
    soc: str
    package: str
    libraries: Callable[[], str | None]
    options: tuple[str, ...] = ()


Table = Callable[[bytes, Sequence[Operator]], Verdict]


def sdk(module: str) -> str | None:
    """The libraries of one of LiteRT's SDK packages; None where it or what it downloads is missing."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return None
    # The package prints where its SDK was not downloaded: it is looked for first.
    if not os.path.isdir(os.path.join(os.path.dirname(spec.origin), "data")):
        return None
    try:
        found = importlib.import_module(module).path_to_sdk_libs()
    except (NotImplementedError, OSError):
        return None
    return str(found) if found and os.path.isdir(found) else None


def divided(content: bytes, vendor: Vendor, timeout: float = 600.0) -> bytes:
    """A file in which the parts for the NPU are operators `DISPATCH_OP`, by the vendor's compiler.

    Raises:
        ConversionError: the compiler or LiteRT's tool is missing, failed, or took longer than `timeout` seconds.
    """
    libraries = vendor.libraries()
    if libraries is None:
        raise ConversionError(f"The compiler of {vendor.manufacturer} is not installed: pip install {vendor.package}.")
    root = os.path.dirname(importlib.util.find_spec("ai_edge_litert").origin)  # type: ignore[union-attr, arg-type]
    tool = os.path.join(root, _TOOL)
    if not os.path.exists(tool):
        raise ConversionError(f"ai-edge-litert has no {_TOOL} for {platform.system()} on {platform.machine()}.")
    with TemporaryFolder("npu") as folder:
        source, target = os.path.join(folder, "model.tflite"), os.path.join(folder, "divided.tflite")
        with open(source, "wb") as file:
            file.write(content)
        paths = (libraries, root, os.environ.get("LD_LIBRARY_PATH", ""))
        command = [
            *_run(tool), "--cmd=partition", f"--model={source}", f"--o={target}",
            f"--libs={os.path.join(root, 'vendors', vendor.folder, 'compiler')}",
            f"--soc_manufacturer={vendor.manufacturer}", f"--soc_model={vendor.soc}", *vendor.options,
        ]  # fmt: skip
        environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(filter(None, paths))}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=timeout, env=environment, cwd=folder
            )
        except subprocess.TimeoutExpired:
            raise ConversionError(f"{_TOOL} did not finish within {timeout:g} s and was stopped.") from None
        # The tool may fail with an exit status of 0: then it leaves an empty file.
        if done.returncode or not os.path.exists(target) or not os.path.getsize(target):
            raise ConversionError(f"The compiler of {vendor.manufacturer} failed: {_said(done.stdout + done.stderr)}")
        with open(target, "rb") as file:
            return file.read()


def _run(tool: str) -> list[str]:
    return [sys.executable, tool] if tool.endswith(".py") else [tool]


def _said(text: str) -> str:
    lines = [line.strip(" └") for line in text.splitlines() if line.strip()]
    told = [line for line in lines if any(word in line.lower() for word in _LINES)]
    return (told[-1] if told else lines[-1] if lines else "no message")[:300]


def judge(content: bytes, found: Sequence[Operator], vendor: Vendor, table: Table) -> Verdict:
    """Asks the vendor's compiler; by its documentation where that is not installed, or fails."""
    if vendor.libraries() is None:
        verdict = table(content, found)
        how = f"{vendor.package}, whose compiler would judge, is not installed"
        return dataclasses.replace(verdict, notes=(how, *verdict.notes))
    try:
        made = divided(content, vendor)
    except ConversionError as error:
        verdict = table(content, found)
        return dataclasses.replace(verdict, notes=(str(error), *verdict.notes))
    stays = {(op.subgraph, op.outputs) for op in flatbuffer.operators(made) if op.name != _DISPATCHED}
    answers: list[tuple[bool | None, str]] = [
        (False, "on the CPU: the compiler leaves it there") if (op.subgraph, op.outputs) in stays else (True, "")
        for op in found
    ]
    parts = sum(op.name == _DISPATCHED for op in flatbuffer.operators(made))
    count = sum(fits is True for fits, _ in answers)
    facts = (("on the NPU", f"{count} of {len(found)} operators, in {counted(parts, 'part')}"),)
    version = importlib.metadata.version("ai-edge-litert")
    name = f"{vendor.manufacturer}'s plugin of ai-edge-litert {version} for {vendor.soc}"
    return Verdict(name, answers, facts)


def documented(plugin: str, operators: Collection[str], types: Collection[str], composites: str) -> Table:
    """A judge by the operators and types that a plugin of LiteRT documents.

    Args:
        plugin: its vendor, as the report calls it.
        composites: of which normalizations alone the documentation speaks.
    """

    def problem(op: Reading) -> tuple[bool | None, str]:
        if op.name == "STABLEHLO_COMPOSITE":
            return None, f"documented for {composites} alone"
        if op.name not in operators:
            return False, "on the CPU: not among the documented operators"
        odd = [dtype for dtype in (*op.dtypes_in, *op.dtypes_out) if dtype not in types]
        if odd:
            return False, f"on the CPU: works on {odd[0]}, which is not among the documented types"
        if op.is_open:
            return None, "a tensor without a fixed size, of which the documentation does not speak"
        return True, ""

    def table(content: bytes, found: Sequence[Operator]) -> Verdict:
        answers = held_against(content, found, problem)
        return Verdict(f"the documentation of LiteRT's {plugin} plugin", answers, (), (_BY_NAME,))

    return table


def npu(name: str, what: str, vendor: Vendor, table: Table, **fields) -> Device:
    """The device of a vendor."""
    judged = functools.partial(judge, vendor=vendor, table=table)
    return Device(name, what, judged, several_functions=True, **fields)
