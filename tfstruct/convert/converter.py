"""The parent's side of the converter process: hand it work, and turn what goes wrong into one error."""

import contextlib
import os
import re
import signal
from collections.abc import Callable, Iterator

from tfstruct.convert import worker
from tfstruct.errors import ConversionError
from tfstruct.files import TemporaryFolder
from tfstruct.precisions import PRECISIONS

_WHO = {"convert": "TensorFlow's converter", "quantize": "TensorFlow's quantizer", "load": "The interpreter"}
_ADVICE = {
    "load": "Keep layers in float32 (Recipe(layers={pattern: 'float32'}), --keep-float): those of an operator that is "
    "named, or whose values are far smaller than those that they are made of. Or use another precision."
}
_OF_A_CRASH = (
    "For recurrent layers with a fixed batch set unroll=True; otherwise convert in float32 to see whether the model or "
    "its quantization is the cause."
)
_OF_MEMORY = (
    "It was out of memory, or was killed: end other programs, raise the limit of memory, or convert a smaller model."
)
ABOUT_THE_FOLDER = "The temporary folder has to stay until the conversion ends, and to have room: TMPDIR names another."


class ConverterProcess:
    """TensorFlow's converter in a process of its own; a context manager with a folder for what they exchange.

    The process is kept for the next conversion (`worker`). Where there is none it starts at once, so that it loads
    TensorFlow while the caller exports the model. After a crash or a time-out the next request starts a fresh one.

    Args:
        timeout: seconds one request may take before the process is killed.
    """

    def __init__(self, timeout: float = 600.0):
        self.timeout = timeout
        self._folder = TemporaryFolder("convert")

    def __enter__(self) -> "ConverterProcess":
        worker.start_ahead()
        return self

    def __exit__(self, *exc) -> None:
        self._folder.remove()

    @property
    def folder(self) -> str:
        """A temporary folder that lives as long as the context."""
        return self._folder.path

    def convert(
        self,
        directory: str,
        signature: str,
        resolve: Callable[[str], str | None] = lambda name: None,
        *,
        float16: bool = False,
    ) -> bytes:
        """Converts a SavedModel to `.tflite`, float32 or with 16-bit weights.

        `resolve` turns a name in the graph into that of its Keras layer, for error messages.
        """
        request = {"action": "convert", "directory": directory, "signature": signature, "float16": float16}
        return self._request(request, resolve)

    def quantize(
        self, content: bytes, precision: str, *, float_input: bool, float_output: bool, keep: list[str]
    ) -> bytes:
        """Quantizes a float `.tflite` whose tensors carry ranges; tensors named in `keep` stay float."""
        return self._request(
            {
                "action": "quantize",
                "source": self._written(content),
                "activation_bits": PRECISIONS[precision].activation_bits,
                "float_input": float_input,
                "float_output": float_output,
                "keep": keep,
            }
        )

    def load(self, content: bytes) -> None:
        """Loads a `.tflite` into the interpreter, whose delegate ends the process at some files that it does not take.

        Raises:
            ConversionError: it does not load.
        """
        self._request({"action": "load", "source": self._written(content)})

    def _written(self, content: bytes) -> str:
        path = os.path.join(self.folder, "source.tflite")
        with self.files_named(), open(path, "wb") as file:
            try:
                file.write(content)
                file.flush()
            except OSError as error:  # a full disk does not say whose
                raise OSError(error.errno, error.strerror, path) from error
        return path

    def _request(self, request: dict, resolve: Callable[[str], str | None] = lambda name: None) -> bytes:
        target = os.path.join(self.folder, "result.tflite")
        with self.files_named():
            return self._asked({**request, "target": target}, target, resolve)

    @contextlib.contextmanager
    def files_named(self) -> Iterator[None]:
        """Context manager: a temporary folder that is full, or that others have removed, is one error that says so.

        Raises:
            ConversionError: a file of the folder cannot be read or written.
        """
        try:
            yield
        except OSError as error:
            if not str(error.filename).startswith(self.folder):
                raise
            raise ConversionError(f"{error.strerror}: {error.filename}. {ABOUT_THE_FOLDER}") from error

    def _asked(self, request: dict, target: str, resolve: Callable[[str], str | None]) -> bytes:
        what = _WHO[request["action"]]
        running = worker.take()
        try:
            answer = running.ask(request, self.timeout)
            if answer is None:
                status, said = running.last_words()
        except TimeoutError:
            raise ConversionError(
                f"{what} did not finish within {self.timeout:g} s and was stopped. "
                "Give it more time (Recipe(timeout=...), --timeout), or unroll fewer recurrent steps."
            ) from None
        finally:
            worker.give_back(running)
        if answer is None:
            advice = _ADVICE.get(request["action"], _OF_A_CRASH)
            if status == -signal.SIGKILL or _lacks_memory(said):
                advice = _OF_MEMORY
            raise ConversionError(f"{what} crashed (exit status {status}){f': {said}' if said else ''}. {advice}")
        if not answer["ok"]:
            advice = _OF_MEMORY if _lacks_memory(answer["error"]) else _ADVICE.get(request["action"], "")
            if self.folder in answer["error"]:
                advice = ABOUT_THE_FOLDER
            raise _error(what, answer["error"], resolve, advice)
        with open(target, "rb") as file:
            content = file.read()
        os.remove(target)
        return content


def _lacks_memory(said: str) -> bool:
    return re.search(r"bad_alloc|mmap error|MemoryError|out of memory|cannot allocate", said, re.IGNORECASE) is not None


def _error(what: str, text: str, resolve: Callable[[str], str | None], advice: str = "") -> ConversionError:
    """One line that names the operators and the Keras layers behind a converter message."""
    operators = sorted(set(re.findall(r"\btf\.[A-Z]\w*", text)))
    named = re.findall(r'(?:loc\(|callsite\(|fused\[|")\s*"?([\w./:-]+?)(?:@[\w.]+)?"', text)
    layers = tuple(dict.fromkeys(filter(None, (resolve(name.rstrip(":")) for name in named))))
    where = f" in layer {', '.join(layers)}" if layers else ""
    if operators:
        message = (
            f"TensorFlow Lite has no operator for {', '.join(operators)}{where}. "
            "Replace the layer, or express it in operators that TensorFlow Lite has."
        )
    else:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        message = f"{what} failed{where}: {' '.join(lines[:2])[:500].rstrip('.')}{f'. {advice}' if advice else ''}"
    return ConversionError(message, layers)
