"""A Keras model, or the twin of one, as the source of a conversion."""

import contextlib
import dataclasses
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np

from tfstruct.convert import dynamic, recipe_checks, rewrites, tensor_names, trained, zero_biases
from tfstruct.convert.converter import ConverterProcess
from tfstruct.convert.export import SIGNATURE, Exported, Signature, export, signature_of
from tfstruct.convert.recipe import Recipe
from tfstruct.convert.scale_check import check_scale
from tfstruct.convert.scopes import layer_at
from tfstruct.convert.source import FloatFile, Layers, OfSamples, Ranges, Stage
from tfstruct.convert.verification import Verification
from tfstruct.errors import ConversionError, RecipeError
from tfstruct.forks import Lock
from tfstruct.graph.layer_tree import layer_paths, states_kept
from tfstruct.graph.opening import OpenedModel, open_by_itself
from tfstruct.graph.sizes import open_input
from tfstruct.keras_internals.layer_parts import all_layers
from tfstruct.quantize.twin import Twin
from tfstruct.samples import Sample

_lock = Lock()
_locks: "weakref.WeakKeyDictionary[keras.layers.Layer, Lock]" = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def _alone(model: keras.Model) -> Iterator[None]:
    """Context manager: no other thread of this process converts the model, or another one with some of its layers."""
    layers = sorted(all_layers(model), key=id)  # in one order: two threads never wait for each other
    with _lock.held():
        locks = [_locks.setdefault(layer, Lock(reentrant=True)) for layer in layers]
    with contextlib.ExitStack() as stack:
        for lock in locks:
            stack.enter_context(lock.held())
        yield


class KerasSource(OfSamples):
    """See `source.Source`. Export and float file are kept for the next recipe."""

    def __init__(self, model: keras.Model | Twin, process: ConverterProcess, stage: Stage):
        self.twin = model if isinstance(model, Twin) else None
        self.model = model if self.twin is None else self.twin.model
        # As it came, and on inputs of open sizes, once that has been called on larger ones.
        self._fixed_model, self._any_size, self._tried = self.model, None, False
        self._usual_sizes: dict[str, tuple[int, ...]] = {}  # of a file that leaves some open
        self._process, self._stage = process, stage
        self._seen_through: dict[tuple[bool, int], OpenedModel] = {}  # whether composites are opened too; id of a model
        self._exported: tuple[tuple, Exported] | None = None
        self._made: dict[bool, tuple[bytes, dict[str, tuple[str, ...]]]] = {}  # whether in 16 bits
        self._holders: dict[str, set[str]] = {}

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def parameters(self) -> int:
        return self.model.count_params()

    def signature(self, recipe: Recipe) -> Signature:
        self.model = self._of_sizes(recipe)
        self._usual_sizes = self._usual(recipe) if recipe.dynamic else {}
        if not dynamic.opens_sizes(recipe):
            return signature_of(self.model, recipe.input_shapes)
        sizes = self._usual(recipe)
        found = dataclasses.replace(signature_of(self.model), sizes=sizes)
        if not self._tried:
            dynamic.require_any_size(self.model, found.inputs, sizes, found.call)
            self._tried = True
        return found

    def finished(self, content: bytes) -> bytes:
        if not self._usual_sizes:
            return content
        return dynamic.with_usual_sizes(content, signature_of(self.model).inputs, self._usual_sizes)

    def _usual(self, recipe: Recipe) -> dict[str, tuple[int, ...]]:
        return {**dynamic.usual_sizes(self._fixed_model), **recipe.input_shapes}

    def _of_sizes(self, recipe: Recipe) -> keras.Model:
        if not dynamic.opens_sizes(recipe):
            return self._fixed_model
        if self.twin is not None:
            raise RecipeError("`dynamic` sizes are for models that are no twins: a twin has ranges of the size it has.")
        if self._any_size is None:
            with self._stage("open sizes"):
                self._any_size = dynamic.opened_model(self._fixed_model)
        return self._any_size

    def at_other_sizes(
        self, recipe: Recipe, signature: Signature, content: bytes, layers: Layers, samples: Callable[[], list[Sample]]
    ) -> tuple[dynamic.SizeCheck, ...]:
        """The file compared at other sizes, where the recipe leaves some open."""
        if recipe.dynamic is None:
            return ()

        def compare(made: bytes, few: Sequence[Sample], source: str) -> Verification:
            return self.compare(signature, made, few, source, lambda done: None)

        return dynamic.checked(recipe, signature.inputs, content, layers, samples(), self.model, compare)

    @contextlib.contextmanager
    def completed(self, recipe: Recipe) -> Iterator[Recipe]:
        """Yields the recipe completed from the twin, with the model's weights temporarily replaced by the rounded
        ones. A second thread that converts the same layers waits: both would stand in for their calls."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(_alone(self.model))
            stack.enter_context(states_kept(self.model))
            if self.twin is not None:
                recipe = trained.recipe_of(self.twin, recipe)  # before the weights move, which some steps are a mean of
                stack.enter_context(self.twin.on_grid())
            if recipe.ranges and recipe.quantizes_activations:
                stack.enter_context(zero_biases.kept(self._opened(recipe).model))
            stack.enter_context(_open_sizes_named(self.signature(recipe)))
            yield recipe

    def check(self, recipe: Recipe) -> None:
        recipe_checks.check_layers(self._opened(recipe).model, recipe)

    def float_file(self, recipe: Recipe) -> FloatFile:
        exported = self._export(recipe)
        content, layers = self._converted(exported, float16=False)
        if recipe.dynamic:
            content = dynamic.with_usual_sizes(content, exported.inputs, self._usual_sizes)
        return FloatFile(content, layers, exported.inputs, exported.outputs, exported.batch, exported.rewrites)

    def float16_file(self, recipe: Recipe) -> tuple[bytes, dict[str, tuple[str, ...]]]:
        return self._converted(self._export(recipe), float16=True)

    def check_scale(self, signature: Signature, samples: Sequence[Sample], *, as_is: bool) -> list[str]:
        return check_scale(self.model, signature, samples, as_is=as_is)

    def ranges_of_layers(self, reference: bytes, layers: Layers, observed: Ranges, recipe: Recipe) -> Ranges:
        model = self._opened(recipe).model
        calls, norms = trained.calls_by_path(model), trained.folded_norms(model)
        return trained.by_tensor(reference, layers, recipe.ranges, observed, recipe, calls, norms, self._holders)

    def weight_limits(
        self, reference: bytes, layers: Layers, recipe: Recipe
    ) -> tuple[dict[str, np.ndarray], list[str]]:
        return trained.weight_limits(reference, layers, self._opened(recipe).model, recipe.weight_limits)

    def said(self, recipe: Recipe) -> dict:
        return {"opened": self._opened(recipe).opened, "opaque": self._opened(recipe).closed}

    def _opened(self, recipe: Recipe) -> OpenedModel:
        """The model that is exported. That of a twin was opened when the twin was made."""
        if self.twin is not None or not recipe.quantizes_activations or not recipe.open_layers:
            return OpenedModel(self.model, (), {})
        inside = trained.names_inside(recipe.ranges, self.model)
        key = inside, id(self.model)
        if key not in self._seen_through:
            with self._stage("open"):
                self._seen_through[key] = open_by_itself(self.model, recipe.open_layers, composites=inside)
        return self._seen_through[key]

    def _export(self, recipe: Recipe) -> Exported:
        seen = self._opened(recipe)
        rewrite = recipe.rewrite and recipe.quantizes_activations and rewrites.any_apply(layer_paths(seen.model))
        shapes = {} if dynamic.opens_sizes(recipe) else recipe.input_shapes
        made_of = (id(self.model), seen.opened, seen.composites)
        key = (recipe.batch_size, tuple(sorted(shapes.items())), rewrite, *made_of)
        if self._exported is None or self._exported[0] != key:
            with self._stage("export"), self._process.files_named():
                directory = tempfile.mkdtemp(prefix="model-", dir=self._process.folder)
                self._exported = (
                    key,
                    export(seen.model, directory, recipe.batch_size, shapes, rewrite=rewrite),
                )
                self._made.clear()
        return self._exported[1]

    def _converted(self, exported: Exported, *, float16: bool) -> tuple[bytes, dict[str, tuple[str, ...]]]:
        if float16 not in self._made:
            with self._stage("convert"):
                content = self._process.convert(
                    exported.directory, SIGNATURE, lambda node: layer_at(node, exported.scopes), float16=float16
                )
                content, layers, self._holders = tensor_names.rename(
                    content, exported.scopes, exported.output_layers, exported.results
                )
                self._made[float16] = content, layers
        return self._made[float16]


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
