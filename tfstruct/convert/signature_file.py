"""`SignatureFile`: a converted file of several functions, with the report of each."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfstruct.convert import signatures
from tfstruct.convert.file_source import signature_of_file
from tfstruct.convert.metadata import Metadata, write_metadata
from tfstruct.convert.ports import BETWEEN, Port, ports_by_function
from tfstruct.convert.recipe_data import batched, random_samples
from tfstruct.convert.runtime import FunctionRuntime, Runtime
from tfstruct.convert.signature_report import SignatureReport
from tfstruct.convert.tflite_model import TFLiteModel
from tfstruct.errors import ArgumentError, ConversionError
from tfstruct.files import gzip_size, write_atomic

_TRIED = 4  # samples on which the file is held against the files that it was made of


class SignatureFile:
    """A file of several functions, which the interpreter lists by name (`get_signature_list`).

    Attributes:
        content: the bytes of the file.
        report: a `SignatureReport`.
        functions: name -> `TFLiteModel`, each as a file of its own: for test vectors, a device, one report.
        layers: tensor of the file -> Keras layers it came from, each as `function/layer`.

    Example:
        >>> code = keras.Input((16,), name="code")
        >>> encoder, decoder = keras.Model(features, hidden(features)), keras.Model(code, model.layers[-1](code))
        >>> file = tfstruct.to_tflite({"encode": encoder, "decode": decoder}, measure_latency=False)
        >>> file.predict("decode", file.predict("encode", x)).shape
        (64, 2)
    """

    def __init__(self, content: bytes, report: SignatureReport, functions: Mapping[str, TFLiteModel]):
        self.content, self.report, self.functions = content, report, dict(functions)
        self.layers = {
            f"{name}{BETWEEN}{tensor}": tuple(f"{name}{BETWEEN}{layer}" for layer in layers)
            for name, one in self.functions.items()
            for tensor, layers in one.layers.items()
        }
        self._runtimes: dict[str, FunctionRuntime] = {}

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What goes in, named `function/name`; see `TFLiteModel.inputs`."""
        return ports_by_function(self.content)[1][0]

    @property
    def outputs(self) -> tuple[Port, ...]:
        """What comes out, as `inputs`."""
        return ports_by_function(self.content)[1][1]

    @classmethod
    def of(cls, functions: Mapping[str, TFLiteModel]) -> "SignatureFile":
        """One file of several, held against them on a few samples.

        Raises:
            ConversionError: it does not compute what they do, or one cannot be joined.
        """
        files = {name: one.content for name, one in functions.items()}
        content = signatures.join_signatures(files)
        alone = {name: signatures.constant_bytes(file) for name, file in files.items()}
        found = SignatureReport(
            {name: one.report for name, one in functions.items()},
            len(content),
            gzip_size(content),
            sum(map(len, files.values())),
            sum(alone.values()) - signatures.constant_bytes(content),
            signatures.unshared({name: one.reference for name, one in functions.items()}, files),
        )
        made = cls(content, found, functions)
        for name, one in functions.items():
            made._require_equal(name, one)
        return made

    def _require_equal(self, name: str, one: TFLiteModel) -> None:
        alone, signature = Runtime(one.content), signature_of_file(one.content)
        samples = one._samples[:_TRIED] or random_samples(signature, _TRIED, ranges=_limits(one))
        for batch in batched(samples, signature.batch):
            ours, theirs = self._runtime(name).run_all(batch), alone.run_all(batch)
            for output, value in theirs.items():
                reach = 1e-5 * float(np.max(np.abs(value), initial=0.0))
                if not np.allclose(ours[output], value, rtol=0, atol=reach, equal_nan=True):
                    raise ConversionError(
                        f"The function {name!r} gives another {output!r} in the file of several functions than alone. "
                        "Convert the models to files of their own."
                    )

    def _runtime(self, name: str) -> FunctionRuntime:
        if name not in self.functions:
            raise ArgumentError(f"The file has no function {name!r}. It has {list(self.functions)}.")
        if name not in self._runtimes:
            self._runtimes[name] = FunctionRuntime(self.content, name)
        return self._runtimes[name]

    def predict(self, function: str, x) -> Any:
        """Runs a function of the file: float in, float out, as `TFLiteModel.predict`.

        Raises:
            ArgumentError: no such function.
            DataError: data that does not fit.
        """
        runtime = self._runtime(function)
        outputs = runtime.run_all(self.functions[function].inputs_of(x))
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def with_metadata(self, about: Metadata) -> "SignatureFile":
        """The same file with what it says of itself; inputs and outputs are named `function/name`.

        Raises:
            ArgumentError: an input or output that the file does not have, or labels that do not fit.
        """
        content = write_metadata(self.content, about)
        report = dataclasses.replace(self.report, size=len(content), gzip_size=gzip_size(content))
        return SignatureFile(content, report, self.functions)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the file: whole or not at all."""
        write_atomic(path, self.content)

    def __repr__(self) -> str:
        return f"SignatureFile({', '.join(self.functions)}, {len(self.content):,} bytes)"


def _limits(one: TFLiteModel) -> dict[str, tuple[float, float]]:
    return {port.name: port.limits for port in one.inputs if port.limits is not None}
