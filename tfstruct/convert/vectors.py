"""Test vectors: what goes into a file and what has to come out, byte by byte, with a program that checks a device."""

import dataclasses
import importlib.metadata
import io
import json
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tfstruct.arguments import require_count
from tfstruct.convert import flatbuffer, micro
from tfstruct.convert.c_ports import c_type, label
from tfstruct.convert.ports import Port, ports_of
from tfstruct.convert.runtime import Runtime
from tfstruct.convert.verification import read_content
from tfstruct.errors import ConversionError, DataError
from tfstruct.files import write_atomic
from tfstruct.reporting.tables import counted
from tfstruct.samples.arrays_by_name import arrays_by_name

_NAME = "model"
_A_LINE = 16
_SHOWN = 8  # differences that are named
_ARENA = 1 << 18  # bytes, where nobody has measured it
_CLOSE = 1e-4  # floats of another processor are sums in another order


@dataclasses.dataclass(frozen=True)
class TestVectors:
    """Inputs of a file as it stores them, and the outputs that belong to them.

    Attributes:
        content: the file.
        inputs, outputs: by name, samples along the first axis.
        runtime: whose outputs they are.

    Example:
        >>> lite = tfstruct.to_tflite(model, "float32")
        >>> vectors = tfstruct.convert.test_vectors(lite, count=2)
        >>> vectors.differences(vectors.outputs)
        []
    """

    __test__ = False  # no class of tests

    content: bytes
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    runtime: str

    def differences(self, outputs: Mapping[str, np.ndarray]) -> list[str]:
        """Where other outputs differ, e.g. those of a device: the first of each output by its place.

        Args:
            outputs: by name, as the file stores them; integers have to be equal, floats within 1e-4.
        """
        found = []
        for name, expected in self.outputs.items():
            if name not in outputs:
                found.append(f"output {name!r} is missing")
                continue
            given = np.asarray(outputs[name])
            if given.shape != expected.shape or given.dtype != expected.dtype:
                found.append(
                    f"output {name!r} is {given.dtype} {given.shape}, expected {expected.dtype} {expected.shape}"
                )
                continue
            places = np.argwhere(~_equal(given, expected))
            for place in map(tuple, places[:_SHOWN].tolist()):
                found.append(
                    f"output {name!r}, sample {place[0]}, element {list(place[1:])}: {given[place]}, expected "
                    f"{expected[place]}"
                )
            if len(places) > _SHOWN:
                found.append(f"output {name!r}: {len(places) - _SHOWN} more")
        return found

    def check(self) -> list[str]:
        """Runs the file on TensorFlow Lite's interpreter of this machine and says where that differs."""
        return self.differences(_run_here(self.content, self.inputs))

    def save(self, folder: str | os.PathLike) -> tuple[pathlib.Path, ...]:
        """Writes the vectors as C arrays and `.npy` files, the model as a C array, and `main.cc`, which runs them on
        TensorFlow Lite Micro, says which outputs differ, and ends with 1 if some do.

        Returns:
            The files.
        """
        path = pathlib.Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        ports = ports_of(self.content)
        arena = _arena(self.content)
        written = [pathlib.Path(one) for one in micro.write_c_array(self.content, path / f"{_NAME}.tflite")]
        texts = {
            "vectors.h": _header(ports, self._count), "vectors.cc": self._arrays(ports),
            "main.cc": _program(self.content, ports, arena, self.runtime),
        }  # fmt: skip
        for name, text in texts.items():
            write_atomic(path / name, text.encode())
            written.append(path / name)
        for side, given in (("input", self.inputs), ("output", self.outputs)):
            for number, (name, value) in enumerate(given.items()):
                file = path / f"{side}{number}_{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.npy"
                content = io.BytesIO()
                np.save(content, value)
                write_atomic(file, content.getvalue())
                written.append(file)
        return tuple(written)

    @property
    def _count(self) -> int:
        return len(next(iter(self.inputs.values())))

    def _arrays(self, ports: tuple[Sequence[Port], Sequence[Port]]) -> str:
        parts = [f'// Written by tfstruct. Outputs by {self.runtime}.\n#include "vectors.h"\n']
        for side, own, given in (("input", ports[0], self.inputs), ("output", ports[1], self.outputs)):
            for number, port in enumerate(own):
                name = f"{label(_NAME, side, number, own)}_vectors"
                parts.append(f"\nconst {c_type(port)} {name}[] = {{\n{_literals(given[port.name])}}};\n")
        return "".join(parts)


def test_vectors(tflite, samples=None, count: int = 8) -> TestVectors:
    """Inputs and expected outputs of a file, for a test on a device.

    The outputs are those of tflite-micro where it is installed and runs the file, whose reference kernels round as a
    microcontroller's do; else those of TensorFlow Lite's interpreter, whose kernels may differ from them by a step.

    Args:
        tflite: a `TFLiteModel`, the bytes of a file, or its path.
        samples: an array, a list or a dict by input name, samples along the first axis, as the model takes them; by
            default calibration samples of a `TFLiteModel`, or random numbers.
        count: how many at most.

    Returns:
        `TestVectors`.

    Raises:
        DataError: no samples, or such as do not fit.
        ConversionError: a file with open sizes, or one that does not load.

    Example:
        >>> lite = tfstruct.to_tflite(model, "int8", calibration=x)
        >>> vectors = tfstruct.convert.test_vectors(lite, count=4)
        >>> vectors.save("vectors")[-1].suffix
        '.npy'
    """
    require_count("count", count, error=DataError)
    content = read_content(tflite)
    inputs, _ = ports_of(content)
    if any(size is None for port in inputs for size in port.shape):
        raise ConversionError("Test vectors need fixed sizes: convert the file with batch_size=1 (--batch-size 1).")
    batch = inputs[0].shape[0] if inputs[0].shape else 1
    given = _given(tflite, inputs, samples, max(count, batch or 1))
    count = len(next(iter(given.values()))) // (batch or 1) * (batch or 1)
    if not count:
        raise DataError(f"Expected samples, as many as the file's batch of {batch} at least.")
    stored = {port.name: port.encode(given[port.name][:count]) for port in inputs}
    for port in inputs:
        got = stored[port.name].shape[1:]
        if got != port.shape[1:]:
            raise DataError(f"Input {port.name!r} expects samples of shape {port.shape[1:]}. Received {got}.")
    if micro.version() is not None:
        try:
            outputs: Mapping[str, np.ndarray] = micro.run(content, stored).outputs
            return TestVectors(content, stored, outputs, f"tflite-micro {micro.version()}")
        except ConversionError:  # an operator that it lacks
            pass
    runtime = f"ai-edge-litert {importlib.metadata.version('ai-edge-litert')}"
    return TestVectors(content, stored, _run_here(content, stored), runtime)


test_vectors.__test__ = False  # type: ignore[attr-defined]  # no test


def _given(tflite, inputs: Sequence[Port], samples, count: int) -> dict[str, np.ndarray]:
    names = [port.name for port in inputs]
    if samples is not None:
        return {name: np.asarray(value)[:count] for name, value in arrays_by_name(samples, names).items()}
    kept = getattr(tflite, "_samples", [])[:count]
    if kept:
        return {name: np.stack([one.inputs[name] for one in kept]) for name in names}
    rng = np.random.default_rng(0)
    out = {}
    for port in inputs:
        shape = (count, *(size or 1 for size in port.shape[1:]))
        low, high = port.limits or (-1.0, 1.0)
        whole = port.dtype.kind in "iub" and not port.scale
        out[port.name] = rng.integers(0, 2, shape).astype(port.dtype) if whole else rng.uniform(low, high, shape)
    return out


def _run_here(content: bytes, stored: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What TensorFlow Lite's interpreter stores in the outputs."""
    runtime = Runtime(content)
    real = runtime.run_all({port.name: port.decode(stored[port.name]) for port in runtime.inputs})
    return {port.name: port.encode(real[port.name]) for port in runtime.outputs}


def _equal(given: np.ndarray, expected: np.ndarray) -> np.ndarray:
    if expected.dtype.kind != "f":
        return given == expected
    return np.isclose(given, expected, rtol=_CLOSE, atol=_CLOSE, equal_nan=True)


def _arena(content: bytes) -> tuple[int, str]:
    """Bytes, and where they come from."""
    if micro.version() is None:
        return _ARENA, "a guess, as tflite-micro, which would measure it, is not installed"
    try:
        return (micro.arena_bytes(content) + 4095) // 1024 * 1024, f"measured by tflite-micro {micro.version()}"
    except ConversionError:
        return _ARENA, "a guess, as tflite-micro does not run the file"


def _literals(values: np.ndarray) -> str:
    flat = values.ravel().tolist()
    form: Callable[[object], str] = (lambda v: f"{v!r}f") if values.dtype.kind == "f" else str
    if values.dtype.kind == "b":
        form = lambda v: str(v).lower()  # noqa: E731
    texts = [form(v).replace("inff", "INFINITY").replace("nanf", "NAN") for v in flat]
    return "".join(f"    {', '.join(texts[i : i + _A_LINE])},\n" for i in range(0, len(texts), _A_LINE))


def _header(ports: tuple[Sequence[Port], Sequence[Port]], count: int) -> str:
    batch = (ports[0][0].shape[0] if ports[0][0].shape else 1) or 1
    lines = [
        "// Written by tfstruct.", "#ifndef VECTORS_H_", "#define VECTORS_H_", "", "#include <cmath>",
        "#include <cstdint>", "", f"// {counted(count, 'sample')}, {batch} in one invocation.",
        f"constexpr unsigned int {_NAME}_invocations = {count // batch};",
    ]  # fmt: skip
    for side, own in zip(("input", "output"), ports, strict=True):
        for number, port in enumerate(own):
            lines.append(f"extern const {c_type(port)} {label(_NAME, side, number, own)}_vectors[];")
    return "\n".join([*lines, "", "#endif  // VECTORS_H_", ""])


def _program(content: bytes, ports: tuple[Sequence[Port], Sequence[Port]], arena: tuple[int, str], runtime: str) -> str:
    graph = flatbuffer.read(content).subgraphs[0]
    places = [{int(index): n for n, index in enumerate(own)} for own in (graph.inputs, graph.outputs)]
    feed, compare = [], []
    for number, port in enumerate(ports[0]):
        own = label(_NAME, "input", number, ports[0])
        feed.append(
            f"    std::memcpy(interpreter.input({places[0][port.index]})->data.raw,\n"
            f"                {own}_vectors + i * {own}_elements, {own}_elements * sizeof({c_type(port)}));\n"
        )
    for number, port in enumerate(ports[1]):
        own = label(_NAME, "output", number, ports[1])
        compare.append(
            f"    wrong += differences({json.dumps(port.name)}, i,\n"
            f"                         reinterpret_cast<const {c_type(port)}*>("
            f"interpreter.output({places[1][port.index]})->data.raw),\n"
            f"                         {own}_vectors + i * {own}_elements, {own}_elements);\n"
        )
    return f"""// Written by tfstruct: runs test vectors on TensorFlow Lite Micro. Expected outputs by {runtime}.
// Ends with 0 if all outputs are as expected, 1 if some differ, 2 if the model does not run.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "{_NAME}.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/micro/system_setup.h"
#include "tensorflow/lite/schema/schema_generated.h"
#include "vectors.h"

namespace {{

// {arena[1]}
alignas(16) uint8_t arena[{arena[0]}];

template <typename T>
bool equal(T a, T b) {{
  return a == b;
}}

bool equal(float a, float b) {{
  return a == b || std::fabs(a - b) <= {_CLOSE}f * (1.0f + std::fabs(b)) || (std::isnan(a) && std::isnan(b));
}}

template <typename T>
int differences(const char* name, unsigned int run, const T* got, const T* expected, unsigned int count) {{
  int wrong = 0;
  for (unsigned int k = 0; k < count; ++k) {{
    if (equal(got[k], expected[k])) continue;
    if (++wrong <= {_SHOWN}) {{
      std::printf("invocation %u, output %s, element %u: %g, expected %g\\n", run, name, k,
                  static_cast<double>(got[k]), static_cast<double>(expected[k]));
    }}
  }}
  return wrong;
}}

}}  // namespace

int main() {{
  tflite::InitializeTarget();
  tflite::MicroMutableOpResolver<{_NAME}_operator_count> resolver;
  {_NAME}_add_operators(resolver);
  tflite::MicroInterpreter interpreter(tflite::GetModel({_NAME}), resolver, arena, sizeof(arena));
  if (interpreter.AllocateTensors() != kTfLiteOk) {{
    std::printf("the model does not fit: an operator is missing, or the arena of %u bytes is too small\\n",
                static_cast<unsigned int>(sizeof(arena)));
    return 2;
  }}
  int wrong = 0;
  for (unsigned int i = 0; i < {_NAME}_invocations; ++i) {{
{"".join(feed)}    if (interpreter.Invoke() != kTfLiteOk) {{
      std::printf("invocation %u failed\\n", i);
      return 2;
    }}
{"".join(compare)}  }}
  std::printf("%u invocations, %d elements differ\\n", {_NAME}_invocations, wrong);
  return wrong ? 1 : 0;
}}
"""
