"""`verify`: a file against the model that it came from, on samples or sequences."""

import contextlib
import dataclasses
import os
from collections.abc import Callable

from tfstruct.convert.export import signature_of
from tfstruct.convert.file_source import signature_of_file
from tfstruct.convert.layer_errors import layer_errors
from tfstruct.convert.stream_verification import compare_streams, sequence_specs
from tfstruct.convert.verification import BATCH, Verification, compare, read_content
from tfstruct.errors import DataError
from tfstruct.graph.layer_tree import states_kept
from tfstruct.samples import Preprocess, Samples, open_samples
from tfstruct.streaming import Streaming


def verify(
    model,
    tflite,
    samples,
    labels=None,
    *,
    preprocess: Preprocess = Preprocess(),  # noqa: B008 (frozen)
    limit: int | None = None,
    per_layer: bool = False,
    reference: bytes | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Verification:
    """Compares a `.tflite` file with the Keras model it came from, on real samples.

    Args:
        model: the Keras model; or the float `.tflite` that the file was made from, its bytes or path; or a `Streaming`
            model, for which samples are sequences.
        tflite: a `TFLiteModel`, the bytes of a file, or its path.
        samples: anything `open_samples` takes, or `Samples` already open.
        labels: key, column, file or array of labels; by default those that `samples` carries.
        preprocess: what is done to every sample before both models see it.
        limit: the largest number of samples.
        per_layer: also list which layer loses most; needs the float file as `reference`, which a
            `TFLiteModel` made by `to_tflite` carries.
        progress: called with the number of samples done.

    Returns:
        `Verification`: agreement of the outputs, and quality of both where there are labels.

    Raises:
        DataError: samples or labels that do not fit.

    Example:
        >>> lite = tfstruct.to_tflite(model, "float32")
        >>> tfstruct.verify(model, lite, x, y).samples
        64
    """
    if isinstance(model, Streaming):
        if not isinstance(samples, Samples):
            specs = sequence_specs(model.plan)
            samples = open_samples(samples, specs, labels=labels, preprocess=preprocess, limit=limit)
        return compare_streams(model, read_content(tflite), samples, str(samples.source), progress)
    is_file = isinstance(model, str | os.PathLike | bytes)
    signature = signature_of_file(read_content(model)) if is_file else signature_of(model)
    float_file: bytes | None = (reference or getattr(tflite, "reference", None)) if per_layer else None
    layers = getattr(tflite, "layers", {})
    content = read_content(tflite)
    if not isinstance(samples, Samples):
        samples = open_samples(samples, signature.inputs, labels=labels, preprocess=preprocess, limit=limit)
    if per_layer and float_file is None:
        raise DataError(
            "`per_layer` compares with the float file. Expected a TFLiteModel made by to_tflite, or `reference`, "
            "the bytes of the float .tflite."
        )
    if float_file is not None:
        first = samples.take(BATCH)
        samples = samples if samples.reiterable else first
    with contextlib.nullcontext() if is_file else states_kept(model):
        found = compare(signature, content, samples, str(getattr(samples, "source", "samples")), progress)
    if float_file is not None:
        inputs = [{k: v[None] for k, v in s.inputs.items()} for s in first]
        found = dataclasses.replace(found, layers=layer_errors(float_file, content, inputs, layers))
    return found
