"""From a Keras model to a verified `.tflite` file."""

import contextlib
import dataclasses
import gzip
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator

import keras
import numpy as np

from tfstruct.convert import (
    biases,
    calibrate,
    engines,
    flatbuffer,
    lookups,
    masks,
    missing_kernels,
    multipliers,
    plumbing,
    recipe_checks,
    rewrites,
    rounding_choice,
    scales,
    tensor_names,
    trained,
    weights,
    zero_biases,
)
from tfstruct.convert.converter import ConverterProcess
from tfstruct.convert.export import SIGNATURE, Exported, Signature, export, signature_of
from tfstruct.convert.layer_errors import layer_errors
from tfstruct.convert.recipe import Recipe
from tfstruct.convert.recipe_data import batched, is_key, opened, peek, random_samples
from tfstruct.convert.report import Report
from tfstruct.convert.runtime import Latency, latency, processor
from tfstruct.convert.scale_check import check_scale
from tfstruct.convert.scopes import layer_at
from tfstruct.convert.tflite_model import TFLiteModel
from tfstruct.convert.verification import compare
from tfstruct.errors import ConversionError, DataError, VerificationError
from tfstruct.graph.layer_tree import layer_paths, states_kept
from tfstruct.graph.opening import OpenedModel, open_by_itself
from tfstruct.graph.sizes import open_input
from tfstruct.quantize.calibrators import calibrator_of
from tfstruct.quantize.twin import Twin
from tfstruct.samples import Sample, Samples, require_numbers

# Samples held in memory: for verification by default, and for second-order rounding.
_KEPT = 256
_FEW_SAMPLES = 100
# A file that falls short is run once more on so many samples, with all that it computes: fewer of a large one.
_LOOKED_AT = (4, 16)
_VALUES_LOOKED_AT = 1 << 26
_RANDOM = "random inputs (no data was given)"

Progress = Callable[[str, int, int | None], None]


def to_tflite(
    model: keras.Model, recipe: Recipe | str | None = None, *, progress: Progress | None = None, **fields
) -> TFLiteModel:
    """Converts a Keras model to a `.tflite` file, and checks the file against the model.

        to_tflite(model, "int8", calibration=x).save("model.tflite")

    Args:
        model: Sequential, functional or subclassed (built); it is not changed. A `tfstruct.quantize.Twin` gives its
            model with its trained ranges, in the precision of its scheme.
        recipe: what to do, a `Recipe` or the name of a precision; by default float32.
        progress: called with (stage, done, total), total None where it is unknown.
        fields: fields of the recipe by name, in place of the recipe's own.

    Returns:
        The file with its report.

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
    recipe = Recipe.of(recipe, **fields)
    with Converter(model, recipe.timeout, progress) as converter:
        return converter.convert(recipe)


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
        model: keras.Model,
        timeout: float = 600.0,
        progress: Progress | None = None,
        process: ConverterProcess | None = None,
    ):
        self.twin = model if isinstance(model, Twin) else None
        self.model = model if self.twin is None else self.twin.model
        self.progress = progress or (lambda stage, done, total: None)
        self._seen_through: dict[bool, OpenedModel] = {}  # whether composites are opened too
        self._exported: tuple[tuple, Exported] | None = None
        self._float: dict[tuple, tuple[bytes, dict[str, tuple[str, ...]]]] = {}
        self._holders: dict[str, set[str]] = {}
        self._process = process or ConverterProcess(timeout)
        self._owned = process is None
        self._seconds: dict[str, float] = {}
        self._changes: list[str] = []

    def __enter__(self) -> "Converter":
        if self._owned:
            self._process.__enter__()
        return self

    def __exit__(self, *exc):
        if self._owned:
            self._process.__exit__(*exc)

    def _resolve(self, node: str) -> str | None:
        return layer_at(node, self._exported[1].scopes) if self._exported else None

    @contextlib.contextmanager
    def _stage(self, name: str, total: int | None = None):
        self.progress(name, 0, total)
        start = time.perf_counter()
        try:
            yield lambda done, total=total: self.progress(name, done, total)
        finally:
            self._seconds[name] = time.perf_counter() - start

    def _opened(self, recipe: Recipe) -> OpenedModel:
        """The model that is exported. That of a twin was opened when the twin was made."""
        if self.twin is not None or not recipe.quantizes_activations or not recipe.open_layers:
            return OpenedModel(self.model, (), {})
        inside = trained.names_inside(recipe.ranges, self.model)
        if inside not in self._seen_through:
            with self._stage("open"):
                self._seen_through[inside] = open_by_itself(self.model, recipe.open_layers, composites=inside)
        return self._seen_through[inside]

    def _export(self, recipe: Recipe) -> Exported:
        seen = self._opened(recipe)
        rewrite = recipe.rewrite and recipe.quantizes_activations and rewrites.any_apply(layer_paths(seen.model))
        key = (recipe.batch_size, tuple(sorted(recipe.input_shapes.items())), rewrite, seen.opened, seen.composites)
        if self._exported is None or self._exported[0] != key:
            with self._stage("export"):
                directory = tempfile.mkdtemp(prefix="model-", dir=self._process.folder)
                self._exported = (
                    key,
                    export(seen.model, directory, recipe.batch_size, recipe.input_shapes, rewrite=rewrite),
                )
                self._float.clear()
        return self._exported[1]

    def _converted(self, recipe: Recipe, *, float16: bool) -> tuple[bytes, dict[str, tuple[str, ...]]]:
        """The float file with readable tensor names."""
        exported = self._export(recipe)
        if (float16,) not in self._float:
            with self._stage("convert"):
                content = self._process.convert(exported.directory, SIGNATURE, self._resolve, float16=float16)
                content, layers, self._holders = tensor_names.rename(
                    content, exported.scopes, exported.output_layers, exported.results
                )
                self._float[float16,] = content, layers
        return self._float[float16,]

    @contextlib.contextmanager
    def _trained(self, recipe: Recipe) -> Iterator[Recipe]:
        """Context manager: yields the recipe completed from the twin, with the model's weights temporarily replaced by
        the rounded ones."""
        with contextlib.ExitStack() as stack:
            if self.twin is not None:
                recipe = trained.recipe_of(self.twin, recipe)  # before the weights move, which some steps are a mean of
                stack.enter_context(self.twin.on_grid())
            if recipe.ranges and recipe.quantizes_activations:
                stack.enter_context(zero_biases.kept(self._opened(recipe).model))
            yield recipe

    def draft(self, recipe: Recipe) -> tuple[bytes, dict[str, tuple[str, ...]]]:
        """Only the file, with tensor -> Keras layers: neither verified nor timed, for questions about operators."""
        signature = signature_of(self.model, recipe.input_shapes)
        with states_kept(self.model), self._trained(recipe) as recipe, _open_sizes_named(signature):
            made = self._make(recipe, signature, [])
        return made[0], made[1]

    def _make(self, recipe: Recipe, signature: Signature, warnings: list[str]):
        """(file, layers by tensor, float file as quantizers take it, engine, calibration samples)."""
        model = self._opened(recipe).model
        recipe_checks.check_layers(model, recipe)
        recipe_checks.check_data(recipe)
        require_numbers(signature.inputs)
        peek(recipe, signature)
        exported = self._export(recipe)
        reference, layers = self._converted(recipe, float16=False)
        recast = plumbing.recast(reference) if recipe.quantizes_activations else plumbing.Recast(reference)
        content, engine, reference = reference, "converter", recast.content
        kept: list[Sample] = []
        if recipe.precision == "float16":
            content, layers = self._converted(recipe, float16=True)
        elif recipe.precision != "float32" or recipe.layers:
            content, layers, engine, kept, finite = self._quantize(
                recipe, signature, exported, recast, layers, warnings
            )
            recast = dataclasses.replace(recast, content=finite)
        return content, layers, recast, engine, kept

    def convert(self, recipe: Recipe | str | None = None, **fields) -> TFLiteModel:
        """One conversion; see `to_tflite` for what it takes and raises."""
        recipe = Recipe.of(recipe, **fields)
        signature = signature_of(self.model, recipe.input_shapes)
        with states_kept(self.model), self._trained(recipe) as recipe, _open_sizes_named(signature):
            return self._convert(recipe, signature)

    def _convert(self, recipe: Recipe, signature: Signature) -> TFLiteModel:
        self._seconds, self._changes = {}, []
        warnings: list[str] = []
        content, layers, recast, engine, kept = self._make(recipe, signature, warnings)
        exported = self._export(recipe)
        with self._stage("check"):
            found = flatbuffer.operators(content, layers)
            at_ports = missing_kernels.rounded_beside_floats(found, recipe)
            unwanted = engines.unwanted_floats(found, recipe, recast.exact)
            warnings += missing_kernels.refuse_floats(unwanted, recipe, at_ports)
            warnings += [f"{at_ports} it in float"] if at_ports else []
            warnings += missing_kernels.wide_weights(found, recipe)
            warnings += biases.lost(content, layers)
            scales.check(content, layers)
        samples, source = self._verification_samples(recipe, signature, kept)
        count = len(samples) if isinstance(samples, list) else samples.count
        with self._stage("verify", count) as step:
            verification = compare(signature, content, samples, source, step)
            verification = dataclasses.replace(verification, random=source == _RANDOM)
            if verification.is_low and content != recast.content:
                few = _first(samples, kept, _VALUES_LOOKED_AT // max(1, flatbuffer.values_made(content)))
                errors = layer_errors(recast.content, content, batched(few, exported.batch), layers) if few else ()
                verification = dataclasses.replace(verification, layers=errors)
        warnings += verification.doubts()
        timed: tuple[Latency, ...] = ()
        if recipe.measure_latency:
            with self._stage("latency"):
                one = self._one_batch(kept, exported, recipe)
                timed = tuple(latency(content, one, n) for n in sorted({1, os.cpu_count() or 1}))
        report = Report(
            model=self.model.name,
            precision=recipe.precision,
            engine=engine,
            recipe=recipe.described(),
            parameters=self.model.count_params(),
            size=len(content),
            gzip_size=len(gzip.compress(content, 9, mtime=0)),
            operators=tuple(found),
            float_operators=tuple(flatbuffer.float_operators(found)),
            verification=verification,
            latency=timed,
            processor=processor(),
            rewrites=(*exported.rewrites, *recast.changes, *self._changes),
            opened=self._opened(recipe).opened,
            opaque=self._opened(recipe).closed,
            warnings=tuple(warnings),
            seconds=dict(self._seconds),
        )
        result = TFLiteModel(content, report, layers, recast.content, kept)
        missed = verification.shortfalls(recipe.require)
        if missed:
            raise VerificationError(f"The {recipe.precision} file falls short: {'; '.join(missed)}.", result)
        return result

    def _quantize(self, recipe, signature, exported, recast, layers, warnings):
        reference = recast.content
        kept: list[Sample] = []
        ranges: dict[str, tuple[float, float]] = {}
        if recipe.calibration is not None:
            # Labels in memory or in a file of their own belong to the verification data where there is any.
            apart = recipe.verification is not None and not is_key(recipe.labels)
            calibration = recipe.replace(labels=None) if apart else recipe
            data = opened(recipe.calibration, signature, calibration, recipe.samples)
            with self._stage("calibrate", min(recipe.samples, data.count or recipe.samples)) as step:
                kept, ranges = self._calibrate(recipe, signature, exported, reference, data, warnings, step)
        if recipe.ranges and recipe.quantizes_activations:
            opened_model = self._opened(recipe).model
            calls, norms = trained.calls_by_path(opened_model), trained.folded_norms(opened_model)
            observed = {**ranges, **recast.ranges}
            ranges = trained.by_tensor(reference, layers, recipe.ranges, observed, recipe, calls, norms, self._holders)
        ranges |= {name: ends for name, ends in recast.ranges.items() if name not in recipe.ranges}
        if recipe.quantizes_activations:
            reference, ranges, self._changes, lost = masks.bounded(reference, ranges, layers, recipe)
            warnings += lost
            ranges = plumbing.chained_choices(reference, ranges)  # with masks that are finite
            ranges, widened = multipliers.bounded(reference, ranges, layers, recipe)
            self._changes += widened
        to_quantize = reference
        limits, unused = trained.weight_limits(reference, layers, self._opened(recipe).model, recipe.weight_limits)
        if unused:
            warnings.append(f"the file has no kernel for the `weight_limits` of {', '.join(unused)}")
        if kept and rounding_choice.rounds(recipe):
            limits = {}  # rounded weights lie on grids of their own
            bits = rounding_choice.bits_of_weights(recipe, reference, layers)
            inputs = list(batched(kept, exported.batch))
            with self._stage("round weights") as step:
                to_quantize = weights.round_weights(reference, bits, inputs, step)
        elif limits:
            to_quantize = trained.clipped(reference, limits)
        elif rounding_choice.rounds(recipe) and not recipe.ranges:  # training has rounded to nearest
            warnings.append("int4 weights were rounded to nearest: calibration data would allow GPTQ, which loses less")
        to_quantize, layers, changes = lookups.by_rows(to_quantize, layers, recipe)
        self._changes += changes
        with self._stage("quantize"):
            content, engine = engines.quantize(
                to_quantize, recipe, layers, ranges, lambda: self._process, limits, recast.exact
            )
        return content, layers, engine, kept, reference

    def _calibrate(self, recipe, signature, exported, reference, data: Samples, warnings, step):
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
            check_scale(self.model, signature, first)
        make = calibrator_of(recipe.calibrator, recipe.percentile, recipe.activation_bits)
        batches = batched(itertools.chain(first, source), exported.batch)
        ranges = calibrate.ranges(reference, batches, make, step)
        if seen < _FEW_SAMPLES:
            warnings.append(
                f"only {seen} calibration sample{'s' if seen > 1 else ''}: ranges may be too narrow, "
                f"{_FEW_SAMPLES} or more are usual"
            )
        return kept, ranges

    def _verification_samples(self, recipe: Recipe, signature: Signature, kept: list[Sample]):
        if recipe.verification is not None:
            data = opened(recipe.verification, signature, recipe, None)
            return data, data.source
        if kept:
            return kept, f"the first {len(kept)} calibration samples"
        if recipe.calibration is not None:
            data = opened(recipe.calibration, signature, recipe, _KEPT)
            return data, f"the first samples of {data.source}"
        return random_samples(signature, 8, ranges=recipe.ranges), _RANDOM

    def _one_batch(self, kept: list[Sample], exported: Exported, recipe: Recipe) -> dict[str, np.ndarray]:
        signature = Signature(exported.inputs, exported.batch, lambda x: {})
        samples = kept or random_samples(signature, 1, ranges=recipe.ranges)
        return next(iter(batched(samples[:1], exported.batch)))


@contextlib.contextmanager
def _open_sizes_named(signature: Signature) -> Iterator[None]:
    """Context manager: names open sizes in front of a conversion error; known ones are unrolled and folded away."""
    try:
        yield
    except ConversionError as error:
        said = [open_input(spec.name, spec.shape) for spec in signature.inputs if None in spec.shape]
        if not said:
            raise
        raise ConversionError(f"{'. '.join(said)}. With open sizes: {error}", error.layers) from error


def _first(samples: list[Sample] | Samples, kept: list[Sample], count: int) -> list[Sample]:
    """A few of the samples that were compared; of the calibration samples if the former cannot be read twice."""
    count = min(max(count, _LOOKED_AT[0]), _LOOKED_AT[1])
    if isinstance(samples, list):
        return samples[:count]
    return samples.take(count) if samples.reiterable else kept[:count]
