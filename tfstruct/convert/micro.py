"""TensorFlow Lite for Microcontrollers: C arrays, resolver calls, and the runtime itself on this machine.

The runtime is the package `tflite-micro` (`pip install tfstruct[micro]`); it runs in a child process.
"""

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence

import numpy as np

from tfstruct.convert import cutout, flatbuffer
from tfstruct.convert.c_ports import port_lines
from tfstruct.convert.runtime import Runtime
from tfstruct.errors import ConversionError
from tfstruct.files import TemporaryFolder, write_atomic
from tfstruct.samples.arrays_by_name import arrays_by_name

_CHILD = os.path.join(os.path.dirname(__file__), "micro_child.py")
# The operators that tflite-micro 0.dev20261023182759 registers in its Python interpreter: found by asking it for
# each one of the schema. Used where the package is not installed.
_NAMES = """
    ABS ADD ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE AVERAGE_POOL_2D BATCH_MATMUL BATCH_TO_SPACE_ND BROADCAST_ARGS
    BROADCAST_TO CALL_ONCE CAST CEIL CONCATENATION CONV_2D COS CUMSUM DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV
    DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP EXPAND_DIMS FILL FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED
    GATHER GATHER_ND GREATER GREATER_EQUAL HARD_SWISH IF L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL LOG
    LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC LOG_SOFTMAX MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG
    NOT_EQUAL PACK PAD PADV2 PRELU QUANTIZE READ_VARIABLE REDUCE_ALL REDUCE_MAX REDUCE_MIN RELU RELU6 RESHAPE
    RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT SELECT_V2 SHAPE SIN SLICE SOFTMAX SPACE_TO_BATCH_ND
    SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM SVDF TANH TRANSPOSE
    TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK VAR_HANDLE WHILE ZEROS_LIKE
"""
OPERATORS = tuple(_NAMES.split())
# Where the method of MicroMutableOpResolver is not the operator's name in camel case.
_METHODS = {
    "BATCH_MATMUL": "AddBatchMatMul",
    "CUMSUM": "AddCumSum",
    "PADV2": "AddPadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "AddUnidirectionalSequenceLSTM",
    "ethos-u": "AddEthosU",
    "TFLM_DECODE": "AddDecode",
    "TFLite_Detection_PostProcess": "AddDetectionPostprocess",
}
_BYTES_A_LINE = 16
_KEYWORDS = """
    alignas alignof and asm auto bool break case catch char class const constexpr continue default delete do double
    else enum explicit export extern false final float for friend goto if inline int long mutable namespace new not
    nullptr operator or private protected public register return short signed sizeof static struct switch template
    this throw true try typedef typename union unsigned using virtual void volatile while xor main
"""


@dataclasses.dataclass(frozen=True)
class Run:
    """What the microcontroller runtime did with a file.

    Attributes:
        outputs: by output name, as the file stores them, samples along the first axis.
        arena_bytes: memory the interpreter took from the tensor arena, on this machine: its pointers have 64
            bits, so a 32-bit device needs somewhat less.
        head_bytes: the part that holds activations.
    """

    outputs: dict[str, np.ndarray]
    arena_bytes: int
    head_bytes: int


def version() -> str | None:
    """The version of the installed tflite-micro; None if there is none."""
    if importlib.util.find_spec("tflite_micro") is None:
        return None
    return importlib.metadata.version("tflite-micro")


def resolver_method(operator: str) -> str:
    """`"CONV_2D"` -> `"AddConv2D"`, the method of `MicroMutableOpResolver` that registers the operator."""
    parts = operator.split("_")
    camel = "".join(p if p[:1].isdigit() else p.capitalize() for p in parts)
    return _METHODS.get(operator, f"Add{camel}")


def resolver_methods(content: bytes) -> tuple[str, ...]:
    """The methods that register a file's operators, each once, in the order of their first use."""
    return tuple(dict.fromkeys(resolver_method(op.name) for op in flatbuffer.operators(content)))


def c_array(content: bytes, name: str, arena_bytes: int | None = None, why: str = "") -> tuple[str, str]:
    """A file as C++ for a microcontroller: (header, source).

    Args:
        name: of the array; what C++ does not allow in an identifier becomes an underscore.
        arena_bytes: a measured arena, written into the header.
        why: there is none, for the header.

    Raises:
        ConversionError: an operator that `MicroMutableOpResolver` has no method for.
    """
    found = flatbuffer.operators(content)
    own = [op for op in found if not flatbuffer.is_builtin(op.name) and op.name not in _METHODS]
    if own:
        raise ConversionError(
            f"{own[0]} is a custom operator, which TensorFlow Lite Micro has no method for. Replace the layer, "
            "or register a kernel of your own by AddCustom."
        )
    name = identifier(name)
    guard = f"{name.upper()}_H_"
    methods = resolver_methods(content)
    calls = "".join(f"  resolver.{method}();\n" for method in methods)
    # As JSON it has no line breaks, which would end the comment.
    arena = f"// The arena was not measured: {json.dumps(why)}\n\n" if why else ""
    if arena_bytes is not None:
        arena = (
            f"// Measured with tflite-micro {version()} on a 64-bit host: an upper bound for a 32-bit device.\n"
            f"constexpr unsigned int {name}_arena_bytes = {arena_bytes};\n\n"
        )
    header = (
        f"// Written by tfstruct.\n#ifndef {guard}\n#define {guard}\n\n"
        f"// The .tflite file, {len(content)} bytes.\nextern const unsigned char {name}[];\n"
        f"extern const unsigned int {name}_len;\n\n{port_lines(content, name)}\n{arena}"
        f"// tflite::MicroMutableOpResolver<{name}_operator_count> resolver;\n"
        f"constexpr unsigned int {name}_operator_count = {len(methods)};\n\n"
        f"template <typename Resolver>\ninline void {name}_add_operators(Resolver& resolver) {{\n{calls}}}\n\n"
        f"#endif  // {guard}\n"
    )
    lines = (
        "    " + ", ".join(f"0x{byte:02x}" for byte in content[i : i + _BYTES_A_LINE]) + ",\n"
        for i in range(0, len(content), _BYTES_A_LINE)
    )
    source = (
        f'// Written by tfstruct.\n#include "{name}.h"\n\n'
        f"// The interpreter reads the file in place and asks for this alignment.\n"
        f"alignas(16) const unsigned char {name}[] = {{\n{''.join(lines)}}};\n"
        f"const unsigned int {name}_len = {len(content)};\n"
    )
    return header, source


def write_c_array(content: bytes, path: str | os.PathLike) -> tuple[str, str]:
    """Writes `c_array` beside a `.tflite` path, as `.h` and `.cc`; the arena is measured where it can be.

    Returns:
        The two paths.
    """
    stem = os.path.splitext(os.fspath(path))[0]
    arena, why = None, ""
    try:
        arena = arena_bytes(content)
    except ConversionError as error:  # the bytes are wanted all the same
        why = str(error)
    header, source = c_array(content, os.path.basename(stem), arena, why)
    # The include must name the header as it lies on disk.
    source = re.sub(r'#include "[^"]*"', lambda _: f'#include "{os.path.basename(stem)}.h"', source, count=1)
    for suffix, text in ((".h", header), (".cc", source)):
        write_atomic(stem + suffix, text.encode())
    return f"{stem}.h", f"{stem}.cc"


def identifier(name: str) -> str:
    """A valid C++ identifier that resembles `name`."""
    clean = re.sub(r"__+", "_", re.sub(r"[^0-9A-Za-z_]", "_", name)).strip("_")
    if not clean or clean[0].isdigit() or clean in _KEYWORDS.split():
        clean = f"model_{clean}".rstrip("_")
    return clean


def run(content: bytes, inputs, *, arena: int | None = None, ports_of: bytes | None = None) -> Run:
    """Runs a file in the microcontroller runtime.

    Args:
        inputs: an array, a list or a dict by input name, samples along the first axis. What is not of the file's
            own dtype is taken for real numbers and quantized as the file says.
        arena: size of the tensor arena in bytes; by default ample.
        ports_of: a file with the same inputs and outputs that TensorFlow Lite can load; by default `content`.

    Raises:
        ConversionError: tflite-micro is not installed, has no kernel, or the arena is too small.
    """
    require()
    model = flatbuffer.read(ports_of or content)
    ports = Runtime(ports_of or content)
    for port in ports.inputs:
        if None in port.shape[1:]:
            from tfstruct.graph.sizes import open_input  # loads Keras

            raise ConversionError(
                f"{open_input(port.name, port.shape[1:])}. The microcontroller runtime needs fixed shapes."
            )
    if any(None in port.shape for port in ports.inputs):
        raise ConversionError(
            "The microcontroller runtime needs fixed shapes. The file leaves dimensions of its inputs open: "
            "convert it with batch_size=1 (--batch-size 1)."
        )
    given = arrays_by_name(inputs, [port.name for port in ports.inputs])
    graph = model.subgraphs[0]
    order = {int(index): place for place, index in enumerate(graph.inputs)}
    outs = {int(index): place for place, index in enumerate(graph.outputs)}
    batch = ports.batch or 1
    count = len(next(iter(given.values())))
    if not count or count % batch:
        raise ConversionError(f"Expected a multiple of the file's batch of {batch} samples. Received {count}.")
    with TemporaryFolder("micro") as folder:
        with open(os.path.join(folder, "model.tflite"), "wb") as file:
            file.write(content)
        for port in ports.inputs:
            values = given[port.name]
            stored = values if values.dtype == port.dtype else port.encode(values)
            steps = np.ascontiguousarray(stored.reshape(count // batch, *port.shape))
            np.save(os.path.join(folder, f"in{order[port.index]}.npy"), steps)
        request = {
            "arena": arena or _ample(model, content),
            "inputs": len(ports.inputs),
            "outputs": len(ports.outputs),
            "steps": count // batch,
        }
        _write_request(folder, request)
        done = _start(["run", folder])
        if done.returncode:
            raise ConversionError(_problem(done))
        outputs = {
            port.name: _flat(np.load(os.path.join(folder, f"out{outs[port.index]}.npy"))) for port in ports.outputs
        }
    figures = {k: int(v) for k, v in re.findall(r"Arena allocation (total|head|tail) (\d+) bytes", done.stderr)}
    if "total" not in figures:
        raise ConversionError("tflite-micro did not say how much of the arena it used. Expected 'Arena allocation'.")
    return Run(outputs, figures["total"], figures.get("head", 0))


def measure(content: bytes) -> Run:
    """A run on zeros, for the arena that a file takes."""
    return run(content, {port.name: port.zeros() for port in Runtime(content).inputs})


def arena_bytes(content: bytes) -> int:
    """Bytes of the tensor arena that a file takes, measured; see `Run.arena_bytes`."""
    return measure(content).arena_bytes


def probe(content: bytes, timeout: float = 120.0) -> tuple[str | None, ...]:
    """Asks the runtime for every operator of a file alone: None where it runs, else what the runtime said.

    An operator that cannot stand alone (a loop, a resource) is looked up in `OPERATORS`.
    """
    require()
    model = flatbuffer.read(content)
    found = flatbuffer.operators(model)
    answers: list[str | None] = [None] * len(found)
    with TemporaryFolder("micro") as folder:
        places: list[int] = []
        inputs = []
        for number, op in enumerate(found):
            alone = cutout.cut(model, op.subgraph, op.index)
            if alone is None:
                answers[number] = None if op.name in OPERATORS else "no kernel is registered"
                continue
            with open(os.path.join(folder, f"{len(places)}.tflite"), "wb") as file:
                file.write(alone)
            places.append(number)
            inputs.append(len(flatbuffer.read(alone).subgraphs[0].inputs))
        _write_request(folder, {"arena": _ample(model, content), "inputs": inputs})
        first = 0
        while first < len(places):
            done = _start(["probe", folder, str(first)], timeout)
            for line in done.stdout.splitlines():
                answer = json.loads(line)
                answers[places[answer["number"]]] = _plain(answer["error"]) or None
                first = answer["number"] + 1
            if done.returncode and first < len(places):
                answers[places[first]] = f"the runtime crashed on it (exit status {done.returncode})"
                first += 1
    return tuple(answers)


def require() -> None:
    if version() is None:
        raise ConversionError(
            "tflite-micro is not installed, which runs files as a microcontroller does. "
            "Install it: pip install 'tfstruct[micro]'."
        )


def _ample(model, content: bytes) -> int:
    """An arena that is large enough for all tensors at once."""
    tensors = [t for graph in model.subgraphs for t in graph.tensors if not flatbuffer.is_constant(model, t)]
    elements = sum(int(np.prod(np.abs(t.shape))) if t.shape is not None and len(t.shape) else 1 for t in tensors)
    return (1 << 20) + 16 * elements + 2 * len(content)


def _write_request(folder: str, request: dict) -> None:
    with open(os.path.join(folder, "request.json"), "w") as file:
        json.dump(request, file)


def _start(arguments: Sequence[str], timeout: float = 600.0) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(
            [sys.executable, _CHILD, *arguments], capture_output=True, text=True, errors="replace", timeout=timeout
        )
    except subprocess.TimeoutExpired:
        raise ConversionError(f"tflite-micro did not finish within {timeout:g} s and was stopped.") from None


def _problem(done: subprocess.CompletedProcess) -> str:
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    said = next((line for line in lines if not line.startswith(("Traceback", "[Recording"))), "")
    if done.returncode < 0:
        said = f"it crashed (signal {-done.returncode})"
    return f"tflite-micro cannot run the file: {_plain(said)}."


def _plain(message: str) -> str:
    """`tensorflow/lite/micro/kernels/x.cc:12 a != b` -> `x.cc: a != b`; a missing operator in plain words."""
    missing = re.match(r"Didn't find (?:op for builtin opcode|custom operator for name) '(.*)'", message)
    if missing:
        return f"the runtime has no operator {missing[1]}"
    return re.sub(r"^\S*/(\w+\.cc)(:\d+)?\s*", r"\1: ", message.strip()).rstrip(".")


def _flat(steps: np.ndarray) -> np.ndarray:
    """(steps, batch, ...) -> (samples, ...)."""
    return steps.reshape(-1, *steps.shape[2:]) if steps.ndim > 1 else steps
