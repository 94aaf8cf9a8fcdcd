"""What a conversion shall do: a frozen, validated `Recipe` with a JSON round trip."""

import dataclasses
import difflib
import functools
import json
import math
import os
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfstruct.arguments import require_one_of
from tfstruct.errors import RecipeError
from tfstruct.patterns import check_open_layers, matches
from tfstruct.precisions import ACTIVATIONS_OF_INT4, CALIBRATORS, OF_FILES, PRECISIONS
from tfstruct.samples import Preprocess
from tfstruct.samples.preprocess import FunctionOfFile
from tfstruct.untrusted import json_text

ENGINES = ("auto", "litert", "tensorflow")
DYNAMIC = ("batch", "sizes", "all")
ROUNDINGS = ("auto", "nearest", "gptq")
BORDER_TYPES = ("uint8", "int8", "int16", "float32")
# What a user can ask of the verification, and on which side of the figure the file has to be.
REQUIREMENTS = {
    "accuracy": "at least",
    "top1_agreement": "at least",
    "sqnr_db": "at least",
    "channel_sqnr_db": "at least",
    "cosine": "at least",
    "max_abs_error": "at most",
    "mean_abs_error": "at most",
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a Keras model becomes a `.tflite` file.

    Attributes:
        precision: `"float32"`; `"float16"` (weights stored in 16 bits, computed in float32); `"dynamic"`
            (int8 weights, float activations); `"int8"` (weights, activations, input and output);
            `"int16x8"` (int16 activations, int8 weights); `"int4"` (weights of convolutions and dense
            layers in 4 bits, the others in 8).
        calibration: data that gives the activation ranges: a path or an in-memory source, see
            `tfstruct.samples.open_samples`. Needed where activations are integers, and for
            `rounding="gptq"`.
        calibrator: how ranges are found: `"minmax"`, `"moving_average"`, `"percentile"`, `"mse"` or
            `"entropy"`, see `tfstruct.quantize.calibrators`.
        percentile: share of the values, in percent, that `calibrator="percentile"` keeps on either side.
        samples: the largest number of calibration samples used.
        labels: the key, column or file of the labels in `calibration` and `verification`.
        preprocess: what is done to every sample before the model sees it.
        verification: data the finished file is compared on; by default the first calibration samples.
        layers: precision by layer, `{pattern: precision}`. A pattern is a layer's name, its path
            (`"backbone/conv1"`) or a glob (`"block_*"`); the last one that matches wins.
        activations: `"int8"` or `"float32"`, for `precision="int4"`.
        rounding: `"nearest"`, `"gptq"` (second-order, needs calibration data), or `"auto"`: GPTQ for int4
            where there is data, nearest elsewhere.
        batch_size: the fixed batch of the file; None leaves it open.
        input_shapes: shape of one sample by input name, for models that leave dimensions open.
        dynamic: `"batch"`: the file takes any number of samples; `"sizes"`: inputs of any size along every axis but the
            batch and the channels, also of a model that was built for one size; `"all"`: both. The file is compared at
            other sizes too, see `Report.sizes`.
        float_io: float input and output, quantized inside the file.
        input_type, output_type: `"uint8"`, `"int8"`, `"int16"` or `"float32"`: what the inputs take and the outputs
            give, one for all or by name, where activations are integers; by default the precision's own. At inputs of 8
            bits, factors and offsets (`Rescaling`, a scalar `Normalization`) become part of the input's scale, and
            whole numbers from 0 to 255 are stored as they are: raw pixels go in.
        allow_float: operators that stay in float are a warning in the report, not an error.
        rewrite: trace layers without integer kernels (LSTM, LayerNormalization, ELU, ...) in a form that has them,
            where activations are integers; see `tfstruct.convert.rewrites`.
        open_layers: `"auto"` opens custom layers where activations are integers, so that what is computed inside has
            names, precisions and ranges (`tfstruct.surgery.open_layers`); False: none.
        engine: the quantizer: `"litert"`, `"tensorflow"`, or `"auto"`: litert, and TensorFlow's where that
            leaves fewer operators in float.
        require: thresholds for the verification by name (see `REQUIREMENTS`), e.g. `{"sqnr_db": 20}`.
        check_range: refuse calibration data whose scale contradicts the model's own statistics.
        ranges: (low, high) of activations by layer path or input name, used as they are, e.g. those that
            quantization-aware training found; `"path/pre_activation"` is what enters a softmax or another
            activation of that layer. Others come from calibration, which is not needed if none is missing.
        weight_limits: the largest magnitude that the integers of a kernel stand for, by layer path and weight such as
            `"block/conv/kernel"`: one number, or one an output channel. Its scale is limit / 127 (limit / 7 in 4 bits),
            of the kernel before batch norm is folded. GPTQ has grids of its own and leaves them aside.
        measure_latency: time the file on this machine; False for one that other machines run.
        timeout: seconds one conversion step may take.

    Example:
        >>> recipe = tfstruct.Recipe("int8", calibration=x, layers={"scores": "float32"})
        >>> recipe.replace(precision="int16x8").precision
        'int16x8'
    """

    precision: str = "float32"
    calibration: Any = dataclasses.field(default=None, compare=False)
    calibrator: str = "minmax"
    percentile: float = 99.99
    samples: int = 500
    labels: Any = dataclasses.field(default=None, compare=False)
    preprocess: Preprocess = dataclasses.field(default_factory=Preprocess)
    verification: Any = dataclasses.field(default=None, compare=False)
    layers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    activations: str = "int8"
    rounding: str = "auto"
    batch_size: int | None = 1
    input_shapes: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    dynamic: str | None = None
    float_io: bool = False
    input_type: str | Mapping[str, str] | None = None
    output_type: str | Mapping[str, str] | None = None
    allow_float: bool = False
    rewrite: bool = True
    open_layers: str | bool = "auto"
    engine: str = "auto"
    require: Mapping[str, float] = dataclasses.field(default_factory=dict)
    check_range: bool = True
    ranges: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    weight_limits: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    measure_latency: bool = True
    timeout: float = 600.0

    def __post_init__(self):
        one_of = functools.partial(require_one_of, error=RecipeError)
        one_of("precision", self.precision, OF_FILES)
        one_of("calibrator", self.calibrator, CALIBRATORS)
        one_of("activations", self.activations, ACTIVATIONS_OF_INT4)
        one_of("rounding", self.rounding, ROUNDINGS)
        one_of("engine", self.engine, ENGINES)
        if not (_is_number(self.percentile) and 50.0 < self.percentile <= 100.0):
            raise RecipeError(f"`percentile` must be in (50, 100]. Received: {self.percentile!r}.")
        if not _is_count(self.samples):
            raise RecipeError(f"`samples` must be a positive integer. Received: {self.samples!r}.")
        if self.batch_size is not None and not _is_count(self.batch_size):
            raise RecipeError(f"`batch_size` must be a positive integer or None. Received: {self.batch_size!r}.")
        if not (_is_number(self.timeout) and 0 < self.timeout <= threading.TIMEOUT_MAX):
            raise RecipeError(f"`timeout` must be a positive, finite number of seconds. Received: {self.timeout!r}.")
        if self.dynamic is not None:
            one_of("dynamic", self.dynamic, DYNAMIC)
        if self.dynamic in ("batch", "all"):
            if self.batch_size not in (1, None):
                raise RecipeError(f"`dynamic` opens the batch. Leave `batch_size` out. Received: {self.batch_size!r}.")
            object.__setattr__(self, "batch_size", None)
        check_open_layers(self.open_layers, RecipeError)
        if not isinstance(self.preprocess, Preprocess):
            raise RecipeError(f"`preprocess` must be a Preprocess. Received: {self.preprocess!r}.")
        for field in ("float_io", "allow_float", "rewrite", "check_range", "measure_latency"):
            if not isinstance(getattr(self, field), bool):
                raise RecipeError(f"`{field}` must be True or False. Received: {getattr(self, field)!r}.")
        for field in ("input_type", "output_type"):
            given = getattr(self, field)
            for name, kind in given.items() if isinstance(given, Mapping) else [("", given)] if given else []:
                one_of(f"{field}[{name!r}]" if name else field, kind, BORDER_TYPES)
            if given and self.float_io:
                raise RecipeError(f"`float_io` is float at every input and output. Leave it out, or `{field}`.")
            object.__setattr__(self, field, dict(given) if isinstance(given, Mapping) else given)
        for field in ("layers", "require", "input_shapes", "weight_limits"):
            if not isinstance(getattr(self, field), Mapping):
                raise RecipeError(f"`{field}` must be a dict. Received: {getattr(self, field)!r}.")
        for pattern, precision in dict(self.layers).items():
            one_of(f"layers[{pattern!r}]", precision, OF_FILES)
        if self.layers and self.precision == "float16":
            raise RecipeError(
                "`layers` cannot be combined with precision 'float16', which is all or nothing. "
                "Use precision='float32' with layers={pattern: 'float16'}."
            )
        for name, threshold in dict(self.require).items():
            one_of("require", name, tuple(REQUIREMENTS))
            if not _is_number(threshold):
                raise RecipeError(f"`require[{name!r}]` must be a number. Received: {threshold!r}.")
            if name in ("accuracy", "top1_agreement") and not 0 <= threshold <= 1:
                raise RecipeError(f"`require[{name!r}]` is a share in [0, 1]. Received: {threshold!r}.")
        for name, shape in dict(self.input_shapes).items():
            if not (isinstance(shape, tuple | list) and all(_is_count(d) for d in shape)):
                raise RecipeError(
                    f"`input_shapes[{name!r}]` must be positive integers, without the batch axis. Received: {shape!r}."
                )
        for name, pair in dict(self.ranges).items():
            pair = _values(pair)
            if not (len(pair) == 2 and all(map(_is_number, pair)) and pair[0] < pair[1]):
                raise RecipeError(f"`ranges[{name!r}]` must be two numbers (low, high), low first. Received: {pair!r}.")
        for name, limits in dict(self.weight_limits).items():
            limits = _values(limits)
            if not (limits and all(_is_number(v) and v > 0 for v in limits)):
                raise RecipeError(f"`weight_limits[{name!r}]` must be positive numbers. Received: {limits!r}.")
        if self.weight_limits and self.engine == "tensorflow":
            raise RecipeError("`weight_limits` are kept by litert-quantizer only. Use engine='litert' or 'auto'.")
        written = [name for name in OF_FILES if "tensorflow" in PRECISIONS[name].engines]
        if self.engine == "tensorflow" and self.precision not in written:
            raise RecipeError(f"`engine='tensorflow'` writes {', '.join(written)}. Received: {self.precision!r}.")
        if self.engine == "tensorflow" and not set(self.layers.values()) <= {"float32"}:
            raise RecipeError("`engine='tensorflow'` can keep layers in float32 only. Use engine='litert' or 'auto'.")
        object.__setattr__(self, "layers", dict(self.layers))
        object.__setattr__(self, "require", dict(self.require))
        object.__setattr__(self, "ranges", {k: tuple(map(float, _values(v))) for k, v in dict(self.ranges).items()})
        weight_limits = {k: tuple(map(float, _values(v))) for k, v in dict(self.weight_limits).items()}
        object.__setattr__(self, "weight_limits", weight_limits)
        object.__setattr__(self, "input_shapes", {k: tuple(v) for k, v in dict(self.input_shapes).items()})

    @classmethod
    def of(cls, given: "Recipe | str | None" = None, **fields) -> "Recipe":
        """A recipe from what a function was given: one, or the name of a precision, and fields of it by name.

            Recipe.of("int8", calibration=x)
            Recipe.of(recipe, float_io=True)

        Raises:
            RecipeError: no recipe, a field that there is not, or a value that does not fit.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in fields:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"Did you mean `{near[0]}`?" if near else f"It has: {', '.join(known)}."
                raise RecipeError(f"A recipe has no field `{name}`. {hint}")
        if isinstance(given, str):
            if "precision" in fields:
                raise RecipeError(f"Give the precision once. Received: {given!r} and {fields['precision']!r}.")
            return cls(precision=given, **fields)
        if not isinstance(given, Recipe | None):
            raise RecipeError(f"Expected a Recipe or the name of a precision such as 'int8'. Received: {given!r}.")
        return given.replace(**fields) if given is not None else cls(**fields)

    @property
    def quantizes_activations(self) -> bool:
        """True if ranges of activations are needed, so calibration data too."""
        return any(map(self.has_integers, (self.precision, *self.layers.values())))

    def has_integers(self, precision: str) -> bool:
        """Whether the activations of layers of a precision are integers."""
        float4 = PRECISIONS[precision].weight_bits == 4 and self.activations == "float32"
        return PRECISIONS[precision].activation_bits is not None and not float4

    @property
    def activation_bits(self) -> int:
        """Bits of the activations that are integers."""
        return PRECISIONS[self.precision].activation_bits or 8

    def precision_of(self, layers: tuple[str, ...]) -> str:
        """The precision of an operator that came from `layers` (paths); the last matching pattern wins."""
        precision = self.precision
        for pattern, value in self.layers.items():
            if any(matches(pattern, path) for path in layers):
                precision = value
        return precision

    def replace(self, **changes) -> "Recipe":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict:
        """Plain data. In-memory calibration, labels or verification data has none: RecipeError."""
        out = dataclasses.asdict(dataclasses.replace(self, calibration=None, labels=None, verification=None))
        for field in ("calibration", "labels", "verification"):
            value = getattr(self, field)
            if value is not None and not isinstance(value, str | os.PathLike):
                raise RecipeError(
                    f"`{field}` is in memory ({type(value).__name__}), which JSON cannot hold. "
                    f"Save it to a file and give the path, or use recipe.replace({field}=None)."
                )
            out[field] = None if value is None else os.fspath(value)
        return out

    def described(self) -> dict:
        """Plain data; of data in memory its type."""

        def name(value):
            return value if value is None or isinstance(value, str | os.PathLike) else f"<{type(value).__name__}>"

        fields = ("calibration", "labels", "verification")
        return self.replace(**{field: name(getattr(self, field)) for field in fields}).to_dict()

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_dict(cls, data: Mapping) -> "Recipe":
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise RecipeError(f"Unknown recipe fields {unknown}. Expected some of {sorted(known)}.")
        data = dict(data)
        if isinstance(data.get("preprocess"), Mapping):
            unknown = sorted(set(data["preprocess"]) - {f.name for f in dataclasses.fields(Preprocess)})
            if unknown:
                raise RecipeError(f"Unknown preprocess fields {unknown}.")
            steps: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data["preprocess"].items()}
            data["preprocess"] = Preprocess(**steps)
        return cls(**data)

    @classmethod
    def from_json(cls, text: str, *, trust: bool = False) -> "Recipe":
        """A recipe from `to_json`.

        Args:
            trust: let it import the module of its `preprocess` function, which is code. Without, the recipe is read and
                fails where that function is needed.

        Raises:
            RecipeError: no JSON, or not such a recipe.
        """
        recipe = json_text.read(text, cls.from_dict, RecipeError, "A recipe")
        name = recipe.preprocess.function
        if trust or name is None:
            return recipe
        steps = dataclasses.replace(recipe.preprocess, function=FunctionOfFile(name))
        return dataclasses.replace(recipe, preprocess=steps)


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _values(given) -> tuple:
    """What may be given as one value, a list, a tuple or an array, as Python's own numbers."""
    several = given.ravel() if isinstance(given, np.ndarray) else given if isinstance(given, list | tuple) else (given,)
    return tuple(v.item() if isinstance(v, np.generic) else v for v in several)


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
