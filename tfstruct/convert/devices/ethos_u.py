"""Arm Ethos-U: what the compiler `ethos-u-vela` places on the NPU, asked in a child process."""

import csv
import dataclasses
import functools
import glob
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Sequence

from tfstruct.arguments import require_one_of
from tfstruct.convert import flatbuffer
from tfstruct.convert.devices.device import Device, Verdict
from tfstruct.convert.flatbuffer import Operator
from tfstruct.errors import ConversionError
from tfstruct.files import TemporaryFolder

ACCELERATORS = (
    *(f"ethos-u55-{macs}" for macs in (32, 64, 128, 256)),
    *(f"ethos-u65-{macs}" for macs in (256, 512)),
    *(f"ethos-u85-{macs}" for macs in (128, 256, 512, 1024, 2048)),
)
# What ethos-u-vela 5.2.0 can place on an Ethos-U55 or U65 (`vela --supported-ops-report`), under constraints that
# only the compiler checks. Used where it is not installed.
_NAMES = """
    ABS ADD ARG_MAX AVERAGE_POOL_2D BATCH_MATMUL CONCATENATION CONV_2D DEPTHWISE_CONV_2D ELU EXP EXPAND_DIMS
    FULLY_CONNECTED GELU HARD_SWISH LEAKY_RELU LOG LOGISTIC MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG PACK
    PAD PADV2 PRELU QUANTIZE REDUCE_MAX REDUCE_MIN RELU RELU6 RELU_0_TO_1 RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR
    RESIZE_NEAREST_NEIGHBOR REVERSE_V2 RSQRT SLICE SOFTMAX SPLIT SPLIT_V SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB
    SUM TANH TILE TRANSPOSE TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK
"""
OPERATORS = tuple(_NAMES.split())
_CUSTOM = "ethos-u"  # the custom operator that stands for everything the compiler took


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler made of a file.

    Attributes:
        content: the compiled file.
        accelerator: e.g. `"ethos-u55-128"`.
        on_cpu: name of an operator's first output -> why it stays on the CPU, for those that do.
        operators: how many operators the file had.
        sram_bytes: peak use of SRAM.
        flash_bytes: constants in flash.
        cycles: estimated for one inference.
        milliseconds: estimated for one inference, at `clock_hz`.
        clock_hz: of the compiler's system configuration.
    """

    content: bytes
    accelerator: str
    on_cpu: dict[str, str]
    operators: int
    sram_bytes: int
    flash_bytes: int
    cycles: int
    milliseconds: float
    clock_hz: float

    @property
    def npu_share(self) -> float:
        """Share of the file's operators that run on the NPU, 0..1."""
        return 1.0 - len(self.on_cpu) / self.operators if self.operators else 0.0


def version() -> str | None:
    """The version of the installed compiler; None if there is none."""
    if importlib.util.find_spec("ethosu") is None:
        return None
    return importlib.metadata.version("ethos-u-vela")


def compile_file(content: bytes, accelerator: str = "ethos-u55-128", timeout: float = 300.0) -> Compiled:
    """Compiles a `.tflite` file for an Ethos-U in the compiler's default system configuration.

    Raises:
        ConversionError: the compiler is not installed, failed, or took longer than `timeout` seconds.
    """
    require_one_of("accelerator", accelerator, ACCELERATORS, error=ConversionError)
    if version() is None:
        raise ConversionError(
            "ethos-u-vela is not installed, which compiles for Ethos-U. Install it: pip install 'tfstruct[micro]'."
        )
    found = flatbuffer.operators(content)
    with TemporaryFolder("vela") as folder:
        source = os.path.join(folder, "model.tflite")
        with open(source, "wb") as file:
            file.write(content)
        command = [sys.executable, "-m", "ethosu.vela", source, "--output-dir", folder]
        try:
            done = subprocess.run(
                [*command, "--accelerator-config", accelerator],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            raise ConversionError(f"ethos-u-vela did not finish within {timeout:g} s and was stopped.") from None
        target = os.path.join(folder, "model_vela.tflite")
        if done.returncode or not os.path.exists(target):
            lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
            said = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no message")
            raise ConversionError(f"ethos-u-vela failed (exit status {done.returncode}): {said[:300]}")
        with open(target, "rb") as file:
            compiled = file.read()
        with open(glob.glob(os.path.join(folder, "model_summary_*.csv"))[0], newline="") as file:
            figures = next(csv.DictReader(file))
    left = {op.outputs[0] for op in flatbuffer.operators(compiled) if op.name != _CUSTOM and op.outputs}
    reasons = dict(
        re.findall(r"\(supported operators\) operator: \S+, ofm: '([^']*)'\s*\n\s*Reason: ([^\n]+)", done.stdout)
    )
    on_cpu = {
        op.outputs[0]: reasons.get(op.outputs[0], "the compiler leaves it to the CPU").strip()
        for op in found
        if op.outputs and op.outputs[0] in left
    }
    flash = sum(float(figures[key]) for key in ("off_chip_flash_memory_used", "on_chip_flash_memory_used"))
    return Compiled(
        content=compiled,
        accelerator=accelerator,
        on_cpu=on_cpu,
        operators=len(found),
        sram_bytes=round(float(figures["sram_memory_used"]) * 1024),
        flash_bytes=round(flash * 1024),
        cycles=round(float(figures["cycles_total"])),
        milliseconds=float(figures["inference_time"]) * 1000,
        clock_hz=float(figures["core_clock"]),
    )


def judge(content: bytes, found: Sequence[Operator], accelerator: str) -> Verdict:
    """Compiles the file; by a table where the compiler is not installed."""
    if version() is None:
        by_name = [(op.name in OPERATORS and not op.is_float, _why_not_on_npu(op)) for op in found]
        note = "ethos-u-vela is not installed: by name and type only, no figures. pip install 'tfstruct[micro]'"
        return Verdict("a table of ethos-u-vela 5.2.0", [*by_name], (), (note,))
    compiled = compile_file(content, accelerator)
    reasons = [compiled.on_cpu.get(op.outputs[0]) if op.outputs else None for op in found]
    answers: list[tuple[bool | None, str]] = [
        (why is None, "" if why is None else f"on the CPU: {why}") for why in reasons
    ]
    count = sum(fits is True for fits, _ in answers)
    facts = (
        ("on the NPU", f"{compiled.npu_share:.0%} of the operators ({count} of {len(found)})"),
        ("SRAM", f"{compiled.sram_bytes:,} bytes"),
        ("flash", f"{compiled.flash_bytes:,} bytes"),
        (
            "estimate",
            f"{compiled.cycles:,} cycles, {compiled.milliseconds:.3f} ms at {compiled.clock_hz / 1e6:.0f} MHz "
            f"({accelerator}, by the compiler's model, not measured)",
        ),
    )
    return Verdict(f"ethos-u-vela {version()}", answers, facts)


def _why_not_on_npu(op: Operator) -> str:
    if op.name not in OPERATORS:
        return "on the CPU: not a supported operator"
    return "on the CPU: works on floats" if op.is_float else ""


def _device(name: str, accelerator: str, **fields) -> Device:
    what = f"Arm Ethos-U NPU, {accelerator}"
    judged = functools.partial(judge, accelerator=accelerator)
    return Device(name, what, judged, operators=dict.fromkeys(OPERATORS, ""), **fields)


DEVICE = _device(
    "ethos-u",
    "ethos-u55-128",
    variants={name: _device(name, name) for name in ACCELERATORS},
    also_called=("ethos", "npu"),
)
