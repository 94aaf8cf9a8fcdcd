"""`TFLiteModel`: a file with its report, and what can be asked of it."""

import dataclasses
import os
from collections.abc import Mapping

import numpy as np

from tfstruct.convert.layer_errors import layer_errors
from tfstruct.convert.metadata import Metadata, PortMetadata, write_metadata
from tfstruct.convert.ports import Port, ports_of
from tfstruct.convert.report import Report
from tfstruct.convert.runtime import Runtime
from tfstruct.convert.stream_file import StreamingFile
from tfstruct.errors import DataError
from tfstruct.files import gzip_size, write_atomic
from tfstruct.samples import Sample
from tfstruct.samples.arrays_by_name import arrays_by_name


class TFLiteModel:
    """A converted model.

    Attributes:
        content: the bytes of the file.
        report: what the conversion did.
        layers: tensor of the file -> Keras layers it came from.
        reference: the float file that the quantized one was made from.
    """

    def __init__(
        self,
        content: bytes,
        report: Report,
        layers: Mapping[str, tuple[str, ...]],
        reference: bytes,
        samples: list[Sample],
    ):
        self.content, self.report, self.layers, self.reference = content, report, layers, reference
        self._samples = samples
        self._runtime: Runtime | None = None

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What goes in: name, shape, dtype, scale, zero point, and the formulas `to_stored` and `to_real` in words."""
        return ports_of(self.content)[0]

    @property
    def outputs(self) -> tuple[Port, ...]:
        """What comes out, as `inputs`."""
        return ports_of(self.content)[1]

    def save(self, path: str | os.PathLike) -> None:
        """Writes the file: whole or not at all."""
        write_atomic(path, self.content)

    def with_metadata(self, about: Metadata) -> "TFLiteModel":
        """The same model with what its file says of itself: names, descriptions, labels, author, licence, version.

        The mean and standard deviation of the recipe's `preprocess` stand there too, where `about` has none.

        Raises:
            ArgumentError: an input or output that the file does not have, or labels that do not fit.

        Example:
            >>> lite = tfstruct.to_tflite(model, "float32")
            >>> named = lite.with_metadata(tfstruct.convert.Metadata(author="me"))
            >>> tfstruct.convert.read_metadata(named).author
            'me'
        """
        content = write_metadata(self.content, self._preprocessed(about))
        size, zipped = len(content), gzip_size(content)
        report = dataclasses.replace(self.report, size=size, gzip_size=zipped)
        return TFLiteModel(content, report, self.layers, self.reference, self._samples)

    def _preprocessed(self, about: Metadata) -> Metadata:
        """With the normalization of the recipe: x = (scale * raw - mean) / std."""
        steps = self.report.recipe.get("preprocess") or {}
        scale, mean, std = steps.get("scale"), steps.get("mean"), steps.get("std")
        if steps.get("function") or (scale, mean, std) == (None, None, None) or (scale or 1.0) <= 0:
            return about
        means, stds = (
            [float(v) / (scale or 1.0) for v in (given if isinstance(given, list | tuple) else [given])]
            for given in (0.0 if mean is None else mean, 1.0 if std is None else std)
        )
        inputs = dict(about.inputs)
        for port in self.inputs:
            own = inputs.get(port.name, PortMetadata())
            is_meant = len(self.inputs) == 1 or len(port.shape) > 3  # of several inputs, the images
            if is_meant and not own.mean and (port.scale or "float" in port.dtype.name):
                inputs[port.name] = dataclasses.replace(own, mean=tuple(means), std=tuple(stds))
        return dataclasses.replace(about, inputs=inputs)

    def predict(self, x):
        """Runs the file: float in, float out, quantizing at the border as the file says.

        Args:
            x: an array, a list or a dict by input name, any number of samples along the first axis.

        Returns:
            An array, or for several outputs a dict by output name.

        Of a streaming file, `x` holds whole sequences from their start, and what comes out is as `StreamingFile.run`
        gives it.
        """
        if self.report.streaming is not None and not (
            isinstance(x, Mapping) and any(state.input in x for state in self.report.streaming.states)
        ):
            return StreamingFile(self.content).run(x)
        self._runtime = self._runtime or Runtime(self.content)
        outputs = self._runtime.run_all(self.inputs_of(x))
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def inputs_of(self, x) -> dict[str, np.ndarray]:
        """Data as arrays by input name.

        Raises:
            DataError: another shape than the file takes, or names that there are not.
        """
        ports = self.inputs
        inputs = arrays_by_name(x, [port.name for port in ports])
        for port in ports:
            got, want = inputs[port.name].shape[1:], port.shape[1:]
            if len(got) != len(want) or any(w is not None and w != g for g, w in zip(got, want, strict=True)):
                raise DataError(f"Input {port.name!r} expects samples of shape {want}. Received {got}.")
        return inputs

    def layer_errors(self):
        """Which layer loses most: SQNR by tensor against the float file, on the samples of the conversion."""
        inputs = [{k: v[None] for k, v in s.inputs.items()} for s in self._samples[:64]]
        return layer_errors(self.reference, self.content, inputs, self.layers)

    def __repr__(self) -> str:
        return f"TFLiteModel({self.report.model!r}, {self.report.precision}, {len(self.content):,} bytes)"
