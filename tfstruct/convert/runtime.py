"""Running a `.tflite` file: float in, float out, intermediate values, and how long it takes."""

import contextlib
import dataclasses
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from tfstruct.convert import file_notes
from tfstruct.convert.ports import Port, ports_of, require_one_function
from tfstruct.errors import ConversionError, one_line

_TFLITE = b"TFL3"


class Runtime:
    """A `.tflite` file in ai-edge-litert's interpreter.

    Args:
        content: the file.
        threads: number of threads.
        intermediates: keep every tensor's value after a run, for `tensor(name)`; slower.

    Raises:
        ConversionError: the interpreter does not load it, or it has several functions.
    """

    _function: str | None = None

    def __init__(self, content: bytes, threads: int = 1, intermediates: bool = False):
        from ai_edge_litert.interpreter import Interpreter

        if self._function is None and content[4:8] == _TFLITE:  # other bytes are the interpreter's to refuse
            require_one_function(content)
        with _loading(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._interpreter = Interpreter(
                model_content=content,
                num_threads=threads,
                experimental_preserve_all_tensors=intermediates,
            )
        self.inputs, self.outputs = self._ports(file_notes.input_scales(content, self._function))
        self._names: dict[str, dict] = {}
        self._shapes: dict[int, tuple[int, ...]] = {}
        # A file with open dimensions may be valid for some sizes only: it waits for its first input.
        if not any(None in port.shape for port in self.inputs):
            self._allocate()

    @property
    def batch(self) -> int | None:
        """The batch size that the file fixes; None if it is open."""
        return self.inputs[0].shape[0] if self.inputs[0].shape else 1

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One invocation on a batch of the file's own size (any size where it is open)."""
        self._resize(inputs)
        for port in self.inputs:
            self._interpreter.set_tensor(port.index, port.encode(inputs[port.name]))
        self._invoke()
        return {port.name: port.decode(self._interpreter.get_tensor(port.index)) for port in self.outputs}

    def _resize(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Gives inputs of open sizes those of the values."""
        moved = False
        for port in self.inputs:
            value = inputs[port.name]
            if None in port.shape and self._shapes.get(port.index) != value.shape:
                self._interpreter.resize_tensor_input(port.index, value.shape)
                self._shapes[port.index], moved = value.shape, True
        if moved:
            self._allocate()

    def _invoke(self) -> None:
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            raise ConversionError(
                f"The interpreter cannot run the file on this input: {one_line(error, 300)} Give data as "
                "in training (ids within their table), or keep the layer of the operator that is named in float32 "
                "(Recipe(layers={pattern: 'float32'}), --keep-float)."
            ) from error

    def run_all(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs any number of samples, cut into batches as the file asks; the last one is filled up."""
        count = len(next(iter(inputs.values())))
        size = self.batch or min(count, 64)
        results: list[dict[str, np.ndarray]] = []
        for start in range(0, count, size):
            batch = {name: value[start : start + size] for name, value in inputs.items()}
            short = size - len(next(iter(batch.values()))) if self.batch else 0
            if short:
                batch = {k: np.concatenate([v, np.repeat(v[-1:], short, axis=0)]) for k, v in batch.items()}
            result = self.run(batch)
            results.append({k: v[: size - short] for k, v in result.items()} if short else result)
        return {port.name: np.concatenate([one[port.name] for one in results]) for port in self.outputs}

    def tensor(self, name: str) -> np.ndarray | None:
        """The real values of a tensor after a run with `intermediates`; None if it has none."""
        if not self._names:
            self._names = {d["name"]: d for d in self._interpreter.get_tensor_details()}
        detail = self._names.get(name)
        if detail is None or detail["dtype"] == np.object_:  # a handle of a variable: reading it ends the process
            return None
        port = next((one for one in self.inputs if one.index == detail["index"]), None) or _port(name, detail)
        try:
            return port.decode(self._interpreter.get_tensor(detail["index"]))
        except ValueError:  # not computed, or of no numeric type
            return None

    def _allocate(self) -> None:
        with _loading():
            self._interpreter.allocate_tensors()

    def _ports(self, scales: Mapping[str, tuple[float, int]]) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
        def own(port: Port) -> Port:
            scale, zero = scales.get(port.name, (port.scale, port.zero_point))
            return dataclasses.replace(port, scale=scale, zero_point=zero) if port.scale else port

        signatures = self._interpreter.get_signature_list()
        if not signatures:
            ins, outs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
            return tuple(own(_port(d["name"], d)) for d in ins), tuple(_port(d["name"], d) for d in outs)
        key = self._function or next(iter(signatures))
        runner = self._interpreter.get_signature_runner(key)
        ins, outs = runner.get_input_details(), runner.get_output_details()
        return (
            tuple(own(_port(name, ins[name])) for name in signatures[key]["inputs"]),
            tuple(_port(name, outs[name]) for name in signatures[key]["outputs"]),
        )


def shapes_at(content: bytes, shapes: Mapping[str, tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
    """By number, the shapes that tensors of the main graph have at some sizes of the inputs, by builtin kernels: a
    delegate keeps those between its operators to itself."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    with _loading():
        interpreter = Interpreter(
            model_content=content,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
        for port in ports_of(content)[0]:
            interpreter.resize_tensor_input(port.index, shapes[port.name])
        interpreter.allocate_tensors()
        for port in ports_of(content)[0]:
            interpreter.set_tensor(port.index, np.zeros(shapes[port.name], port.dtype))
        interpreter.invoke()
    return {one["index"]: tuple(map(int, one["shape"])) for one in interpreter.get_tensor_details()}


class FunctionRuntime(Runtime):
    """One function of a file that has several.

    Args:
        function: its name.
    """

    def __init__(self, content: bytes, function: str, threads: int = 1):
        self._function = function
        super().__init__(content, threads)
        self._runner = self._interpreter.get_signature_runner(function)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Runtime.run`."""
        made = self._runner(**{port.name: port.encode(inputs[port.name]) for port in self.inputs})
        return {port.name: port.decode(made[port.name]) for port in self.outputs}


@contextlib.contextmanager
def _loading() -> Iterator[None]:
    """The interpreter's complaints about a file, as one line."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConversionError(f"The interpreter cannot load the file: {first}") from error


def _port(name: str, detail: Mapping) -> Port:
    scales = detail["quantization_parameters"]["scales"]
    per_tensor = len(scales) == 1 and np.issubdtype(detail["dtype"], np.integer)
    shape = tuple(None if d < 0 else int(d) for d in detail["shape_signature"])
    return Port(
        name,
        detail["index"],
        shape,
        np.dtype(detail["dtype"]),
        float(scales[0]) if per_tensor else 0.0,
        int(detail["quantization_parameters"]["zero_points"][0]) if per_tensor else 0,
    )


@dataclasses.dataclass(frozen=True)
class Latency:
    """Time of one invocation in microseconds."""

    threads: int
    median_us: float
    p90_us: float
    runs: int


def latency(
    content: bytes,
    inputs: Mapping[str, np.ndarray],
    threads: int = 1,
    seconds: float = 0.25,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Latency:
    """Times single invocations on one batch after a warm-up, for about `seconds` and at least 10 runs; `clock` tells
    nanoseconds."""
    runtime = Runtime(content, threads)
    for _ in range(3):
        runtime.run(inputs)
    interpreter, end = runtime._interpreter, time.perf_counter() + seconds
    times: list[int] = []
    while len(times) < 10 or (time.perf_counter() < end and len(times) < 1000):
        start = clock()
        interpreter.invoke()
        times.append(clock() - start)
    micro = np.asarray(times) / 1e3
    return Latency(threads, float(np.median(micro)), float(np.percentile(micro, 90)), len(times))


def is_delegated(content: bytes) -> bool:
    """True if XNNPACK takes a file of one operator; False if a builtin kernel runs it.

    Raises:
        ConversionError: nothing runs it.
    """
    runtime = Runtime(content)
    return any(op["op_name"] == "DELEGATE" for op in runtime._interpreter._get_ops_details())


def processor() -> str:
    """The name of this machine's processor: a latency means nothing without it."""
    try:
        with open("/proc/cpuinfo") as file:
            found = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "")
    except OSError:
        found = ""
    return f"{found or platform.processor() or platform.machine()}, {os.cpu_count()} cores"
