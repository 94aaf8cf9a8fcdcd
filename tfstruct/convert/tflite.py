"""From a Keras model to a verified `.tflite` file."""

import contextlib
import dataclasses
import itertools
import os
import time
from collections.abc import Iterator, Mapping
from typing import TypeAlias, overload

import keras

from tfstruct.convert import (
    biases,
    border_types,
    calibrate,
    engines,
    flatbuffer,
    front_scaling,
    lookups,
    masks,
    missing_kernels,
    multipliers,
    plumbing,
    recipe_checks,
    rounding_choice,
    scales,
    several,
    trained,
    weights,
)
from tfstruct.convert.converter import ConverterProcess
from tfstruct.convert.export import Signature
from tfstruct.convert.file_source import FileSource
from tfstruct.convert.keras_source import KerasSource
from tfstruct.convert.layer_errors import layer_errors
from tfstruct.convert.ports import ports_of
from tfstruct.convert.recipe import Recipe
from tfstruct.convert.recipe_data import (
    RANDOM,
    batched,
    first_of,
    is_key,
    one_batch,
    open_shapes,
    opened,
    peek,
    verification_samples,
)
from tfstruct.convert.report import Report
from tfstruct.convert.runtime import Latency, latency, processor
from tfstruct.convert.signature_file import SignatureFile
from tfstruct.convert.signatures import split_signatures
from tfstruct.convert.source import FloatFile, Layers, Source
from tfstruct.convert.stream_source import StreamingSource
from tfstruct.convert.tflite_model import TFLiteModel
from tfstruct.convert.usage import versions
from tfstruct.convert.verification import read_content
from tfstruct.errors import ConversionError, DataError, RecipeError, VerificationError
from tfstruct.files import gzip_size
from tfstruct.quantize.calibrators import calibrator_of
from tfstruct.samples import Sample, Samples, require_numbers
from tfstruct.streaming import Streaming
from tfstruct.terminal import Progress, Verbose, shows_progress, silent

# Samples held in memory: for verification by default, and for second-order rounding.
_KEPT = 256
_FEW_SAMPLES = 100
# A file that falls short is run once more on so many samples, with all that it computes: fewer of a large one.
_LOOKED_AT = (4, 16)
_VALUES_LOOKED_AT = 1 << 26


Convertible: TypeAlias = keras.Model | Streaming | str | os.PathLike | bytes


@overload
def to_tflite(
    model: Mapping[str, Convertible],
    recipe: Recipe | str | Mapping[str, Recipe | str] | None = ...,
    *,
    progress: Progress = ...,
    verbose: Verbose = ...,
    **fields,
) -> SignatureFile: ...
@overload
def to_tflite(
    model: Convertible, recipe: Recipe | str | None = ..., *, progress: Progress = ..., verbose: Verbose = ..., **fields
) -> TFLiteModel: ...
@shows_progress
def to_tflite(
    model,
    recipe=None,
    *,
    progress: Progress = silent,
    verbose: Verbose = "auto",
    **fields,
):
    """Converts a Keras model to a `.tflite` file, and checks the file against the model.

        to_tflite(model, "int8", calibration=x).save("model.tflite")

    Args:
        model: Sequential, functional or subclassed (built); it is not changed. A `tfstruct.quantize.Twin` gives its
            model with its trained ranges, in the precision of its scheme. Or the path or bytes of a float `.tflite`
            file, which takes the place of the Keras model: its tensors stand for layers, none is opened or rewritten.
            Of a `Streaming` model data are whole sequences, over which the file runs call by call. Several, as a dict
            by name such as `{"encode": encoder, "decode": decoder}`, become the functions of one file (its
            signatures), in which equal weights are stored once; so do those of a file that has several.
        recipe: what to do, a `Recipe` or the name of a precision; by default float32. Of several functions one for all,
            or one by name; `calibration`, `verification` and `labels` can be dicts by name too.
        progress: called with (stage, done, total), total None where it is unknown.
        verbose: what is shown while it works, see `tfstruct.compress`.
        fields: fields of the recipe by name, in place of the recipe's own.

    Returns:
        The file with its report; of several functions a `SignatureFile`.

    Raises:
        RecipeError: a recipe that does not fit the model.
        DataError: calibration or verification data that does not fit.
        ConversionError: an operator without a kernel, a crash, a time-out, or operators left in float.
        VerificationError: the file falls short of `recipe.require`; it is in the error's `model`.

    Example:
        >>> lite = tfstruct.to_tflite(model, tfstruct.Recipe("int8", calibration=x))
        >>> lite.save("model.tflite")
        >>> lite.report.verification.samples
        64
    """
    if isinstance(model, str | os.PathLike | bytes):
        functions = split_signatures(model)
        model = functions if len(functions) > 1 else model
    if isinstance(model, Mapping):
        return several.converted(model, recipe, fields, progress, Converter)
    recipe = Recipe.of(recipe, **fields)
    with Converter(model, recipe.timeout, progress) as converter:
        return converter.convert(recipe)


@dataclasses.dataclass(frozen=True)
class _Made:
    """A file before it is looked at: tensor -> layers, who wrote it, the float file as it came and as quantizers take
    it, some of the calibration samples."""

    content: bytes
    layers: Layers
    engine: str
    source: FloatFile
    recast: plumbing.Recast
    kept: list[Sample]


class Converter(contextlib.AbstractContextManager):
    """Converts one model by several recipes; process, export and float file are shared.

    Args:
        model: see `to_tflite`.
        timeout: seconds one step of TensorFlow's converter may take.
        progress: see `to_tflite`.
        process: a converter process that is running already and goes on afterwards; by default an own one.

    Example:
        >>> with tfstruct.convert.Converter(model) as converter:
        ...     files = [converter.convert(tfstruct.Recipe(precision)) for precision in ("float32", "float16")]
        >>> files[1].report.precision
        'float16'
    """

    def __init__(
        self,
        model: Convertible,
        timeout: float = 600.0,
        progress: Progress | None = None,
        process: ConverterProcess | None = None,
    ):
        self.progress = progress or silent
        self._process = process or ConverterProcess(timeout)
        self._owned = process is None
        self._seconds: dict[str, float] = {}
        self._changes: list[str] = []
        self._source: Source = self._source_of(model)

    @property
    def model(self) -> keras.Model | None:
        """The Keras model that is converted; None where a file takes its place."""
        return self._source.model if isinstance(self._source, KerasSource) else None

    def __enter__(self) -> "Converter":
        if self._owned:
            self._process.__enter__()
        return self

    def __exit__(self, *exc):
        if self._owned:
            self._process.__exit__(*exc)

    def _source_of(self, model: Convertible) -> Source:
        if isinstance(model, str | os.PathLike | bytes):
            name = "the file" if isinstance(model, bytes) else os.path.basename(model)
            return FileSource(read_content(model), name, lambda: self._process, self._stage)
        if isinstance(model, Streaming):
            return StreamingSource(model, self._process, self._stage)
        return KerasSource(model, self._process, self._stage)

    @contextlib.contextmanager
    def _stage(self, name: str, total: int | None = None):
        self.progress(name, 0, total)
        start = time.perf_counter()
        try:
            yield lambda done, total=total: self.progress(name, done, total)
        finally:
            self._seconds[name] = time.perf_counter() - start

    def draft(self, recipe: Recipe) -> tuple[bytes, dict[str, tuple[str, ...]]]:
        """Only the file, with tensor -> Keras layers: neither verified nor timed, for questions about operators."""
        signature = self._source.signature(recipe)
        with self._source.completed(recipe) as recipe:
            made = self._make(recipe, signature, [])
        return made.content, dict(made.layers)

    def _make(self, recipe: Recipe, signature: Signature, warnings: list[str]) -> "_Made":
        self._source.check(recipe)
        recipe_checks.check_data(recipe)
        require_numbers(signature.inputs)
        peek(recipe, signature)
        source = self._source.float_file(recipe)
        recast = plumbing.recast(source.content) if recipe.quantizes_activations else plumbing.Recast(source.content)
        if recipe.precision == "float16":
            content, layers = self._source.float16_file(recipe)
            return _Made(flatbuffer.compact(content), layers, "converter", source, recast, [])
        if recipe.precision == "float32" and not recipe.layers:
            content = flatbuffer.compact(source.content)
            return _Made(content, source.layers, "converter", source, plumbing.Recast(content), [])
        return self._quantize(recipe, signature, source, recast, warnings)

    def convert(self, recipe: Recipe | str | None = None, **fields) -> TFLiteModel:
        """One conversion; see `to_tflite` for what it takes and raises."""
        recipe = Recipe.of(recipe, **fields)
        if recipe.dynamic and type(self._source) is not KerasSource:
            raise RecipeError(
                "`dynamic` is for Keras models. A float .tflite file keeps its sizes, a stream its frames."
            )
        signature = self._source.signature(recipe)
        with self._source.completed(recipe) as recipe:
            try:
                return self._convert(recipe, signature)
            except ConversionError as error:
                return self._convert(self._source.instead(recipe, error), signature)

    def _convert(self, recipe: Recipe, signature: Signature) -> TFLiteModel:
        self._seconds, self._changes = {}, []
        warnings: list[str] = []
        made = self._make(recipe, signature, warnings)
        with self._stage("check"):
            content, layers, recast, kept = self._source.finished(made.content), made.layers, made.recast, made.kept
            found = flatbuffer.operators(parsed := flatbuffer.read(content), layers)
            at_ports = missing_kernels.rounded_beside_floats(found, recipe)
            unwanted = engines.unwanted_floats(found, recipe, recast.exact)
            warnings += missing_kernels.refuse_floats(unwanted, recipe, at_ports)
            warnings += [f"{at_ports} it in float"] if at_ports else []
            warnings += missing_kernels.wide_weights(found, recipe)
            warnings += biases.lost(parsed, layers)
            scales.check(parsed, layers)
        samples, source = self._source.sequences() or verification_samples(recipe, signature, kept, _KEPT)
        count = len(samples) if isinstance(samples, list) else samples.count
        with self._stage("verify", count) as step:
            verification = self._source.compare(signature, content, samples, source, step)
            verification = dataclasses.replace(verification, random=source == RANDOM)
            if verification.is_low and content != recast.content:
                of = samples if self._source.sequences() is None else kept
                few = first_of(of, kept, _LOOKED_AT, _VALUES_LOOKED_AT // max(1, flatbuffer.values_made(parsed)))
                errors = layer_errors(recast.content, content, batched(few, made.source.batch), layers) if few else ()
                verification = dataclasses.replace(verification, layers=errors)
        warnings += verification.doubts()
        sizes = self._source.at_other_sizes(
            recipe, signature, content, layers, lambda: first_of(samples, kept, _LOOKED_AT, 0)
        )
        warnings += [text for one in sizes for text in one.doubts(verification)]
        inputs, outputs = ports_of(content)
        one = one_batch(kept, dataclasses.replace(signature, batch=made.source.batch), recipe)
        timed: tuple[Latency, ...] = ()
        if recipe.measure_latency:
            with self._stage("latency"):
                timed = tuple(latency(content, one, n) for n in sorted({1, os.cpu_count() or 1}))
        report = Report(
            model=self._source.name,
            precision=recipe.precision,
            engine=made.engine,
            recipe=self._source.described(recipe),
            parameters=self._source.parameters,
            size=len(content),
            gzip_size=gzip_size(content),
            operators=tuple(found),
            float_operators=tuple(flatbuffer.float_operators(found)),
            verification=verification,
            latency=timed,
            processor=processor(),
            rewrites=(*made.source.rewrites, *recast.changes, *self._changes),
            warnings=tuple(warnings),
            seconds=dict(self._seconds),
            inputs=inputs,
            outputs=outputs,
            versions=versions(),
            sizes=sizes,
            timed_at=open_shapes(inputs, one) if timed else "",
            **self._source.facts(content),
            **self._source.said(recipe),
        )
        result = TFLiteModel(content, report, layers, recast.content, kept)
        missed = verification.shortfalls(recipe.require)
        if missed:
            raise VerificationError(f"The {recipe.precision} file falls short: {'; '.join(missed)}.", result)
        return result

    def _quantize(self, recipe, signature, source: FloatFile, recast, warnings) -> "_Made":
        reference = recast.content
        layers: Layers = source.layers
        kept: list[Sample] = []
        ranges: dict[str, tuple[float, float]] = {}
        if recipe.calibration is not None:
            # Labels in memory or in a file of their own belong to the verification data where there is any.
            apart = recipe.verification is not None and not is_key(recipe.labels)
            calibration = recipe.replace(labels=None) if apart else recipe
            data = opened(recipe.calibration, signature, calibration, recipe.samples)
            with self._stage("calibrate", min(recipe.samples, data.count or recipe.samples)) as step:
                kept, ranges = self._calibrate(recipe, signature, source.batch, reference, data, warnings, step)
        if recipe.ranges and recipe.quantizes_activations:
            observed = {**ranges, **recast.ranges}
            ranges = self._source.ranges_of_layers(reference, layers, observed, recipe)
        ranges |= {name: ends for name, ends in recast.ranges.items() if name not in recipe.ranges}
        if recipe.quantizes_activations:
            reference, ranges, self._changes, lost = masks.bounded(reference, ranges, layers, recipe)
            warnings += lost
            ranges = plumbing.chained_choices(reference, ranges)  # with masks that are finite
            ranges, widened = multipliers.bounded(reference, ranges, layers, recipe)
            ranges = self._source.tied(reference, ranges)
            self._changes += widened
        to_quantize = reference
        limits, unused = self._source.weight_limits(reference, layers, recipe)
        if unused:
            warnings.append(f"the file has no kernel for the `weight_limits` of {', '.join(unused)}")
        if kept and rounding_choice.rounds(recipe):
            limits = {}  # rounded weights lie on grids of their own
            bits = rounding_choice.bits_of_weights(recipe, reference, layers)
            inputs = list(batched(kept, source.batch))
            with self._stage("round weights") as step:
                to_quantize = weights.round_weights(reference, bits, inputs, step)
        elif limits:
            to_quantize = trained.clipped(reference, limits)
        elif rounding_choice.rounds(recipe) and not recipe.ranges:  # training has rounded to nearest
            warnings.append("int4 weights were rounded to nearest: calibration data would allow GPTQ, which loses less")
        to_quantize, layers, changes = lookups.by_rows(to_quantize, layers, recipe)
        self._changes += changes
        types = border_types.by_name(recipe.input_type, [spec.name for spec in source.inputs], "input")
        types = {name: kind for name, kind in types.items() if name not in recast.exact}
        front = front_scaling.folded(to_quantize, layers, ranges, types, kept)
        with self._stage("quantize"):
            content, engine = engines.quantize(
                front.content, recipe, layers, front.ranges, lambda: self._process, limits, recast.exact
            )
        self._changes += front.changes
        if recipe.input_type or recipe.output_type:
            border = border_types.Border(content, layers, front.ranges)
            border.give("input", recipe.input_type)
            border.give("output", recipe.output_type)
            border.note_scales(front.fronts)
            self._changes += border.changes
            content, layers = border.content(), border.layers
        return _Made(content, layers, engine, source, dataclasses.replace(recast, content=reference), kept)

    def _calibrate(self, recipe, signature, batch: int | None, reference, data: Samples, warnings, step):
        kept: list[Sample] = []
        seen = 0

        def stream() -> Iterator[Sample]:
            nonlocal seen
            for sample in data:
                seen += 1
                if len(kept) < _KEPT:
                    kept.append(sample)
                yield sample

        source = stream()
        first = list(itertools.islice(source, 32))
        if not first:
            raise DataError(f"The calibration data {data.source} holds no samples. Expected 100 or more.")
        if recipe.check_range:
            warnings += self._source.check_scale(
                signature, first, as_is=not (recipe.preprocess and recipe.preprocess.changes_values)
            )
        make = calibrator_of(recipe.calibrator, recipe.percentile, recipe.activation_bits)
        batches = batched(itertools.chain(first, source), batch)
        ranges = calibrate.ranges(reference, batches, make, step)
        if seen < _FEW_SAMPLES:
            warnings.append(
                f"only {seen} calibration sample{'s' if seen > 1 else ''}: ranges may be too narrow, "
                f"{_FEW_SAMPLES} or more are usual"
            )
        return kept, ranges
