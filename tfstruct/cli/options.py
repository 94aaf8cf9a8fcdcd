"""From arguments to recipes, files and shapes, checked before TensorFlow loads."""

import argparse
import contextlib
import glob
import importlib
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping

from tfstruct.cli.spelled import number
from tfstruct.convert.recipe import Recipe
from tfstruct.errors import DataError, ModelError, RecipeError
from tfstruct.precisions import OF_FILES
from tfstruct.samples import Preprocess

TFLITE = ".tflite"


def require_output(options) -> None:
    if options.output is None:
        raise RecipeError("No output was given. Expected: -o OUT.tflite.")


def check_devices(options, names: Iterable[str], table: bool = False) -> None:
    """Reads the boards of `--boards`, and looks whether all devices are known; at a command's start.

    Args:
        table: whether `all` is one of them.
    """
    from tfstruct.convert.devices import device, is_all
    from tfstruct.convert.devices.boards import add_boards

    for path in options.boards:
        add_boards(path)
    for name in names:
        if not is_all(name):
            device(name)
        elif not table:
            raise RecipeError(
                "--target all is a table that `tfstruct inspect` and --check-only show. Here name one device, such as "
                f"micro. Received: {name!r}."
            )


def precision_of(options) -> str:
    """Of the file: who gives calibration data and no precision wants integers."""
    return options.precision or ("float32" if options.calibration is None else "int8")


def recipes_of(options) -> list[Recipe]:
    layers = {pattern: "float32" for pattern in options.keep_float}
    for item in options.layer:
        pattern, equals, precision = item.rpartition("=")
        if not equals or not pattern:
            raise RecipeError(f"--layer expects PATTERN=PRECISION. Received: {item!r}.")
        layers[pattern] = precision
    recipe = Recipe(
        precision=precision_of(options),
        calibration=options.calibration,
        calibrator=options.calibrator,
        percentile=options.percentile,
        samples=options.samples,
        labels=options.labels,
        preprocess=preprocess_of(options),
        verification=options.verify,
        layers=layers,
        activations=options.activations,
        rounding=options.rounding,
        batch_size=_batch_size(options.batch_size),
        dynamic=options.dynamic,
        float_io=options.float_io,
        input_type=_types("--input-type", options.input_type),
        output_type=_types("--output-type", options.output_type),
        allow_float=options.allow_float,
        rewrite=not options.no_rewrite,
        engine=options.engine,
        require=thresholds_of(options),
        check_range=not options.no_range_check,
        measure_latency=not options.no_latency,
        timeout=options.timeout,
    )
    if not options.all_precisions:
        return [recipe]
    if layers:
        raise RecipeError("--all-precisions converts whole models. Use --keep-float and --layer with one --precision.")
    return [recipe.replace(precision=p) for p in OF_FILES]


def thresholds_of(options) -> dict[str, float]:
    """What the file has to reach, as in `Recipe(require=...)`."""
    asked = {
        "accuracy": options.min_accuracy,
        "top1_agreement": options.min_agreement,
        "sqnr_db": options.min_sqnr,
    }
    return {name: least for name, least in asked.items() if least is not None}


def preprocess_of(options) -> Preprocess:
    return Preprocess(
        resize=numbers("--resize", options.resize, int, 2),
        scale=options.scale,
        mean=numbers("--mean", options.mean, number),
        std=numbers("--std", options.std, number),
        function=options.preprocess,
    )


def targets_of(options, recipes: list[Recipe]) -> list[pathlib.Path]:
    """The files to write, checked before any work: suffix, folder, and whether they are there already."""
    target = output_of(options, ".tflite")
    targets = [target.with_suffix(f".{r.precision}.tflite") for r in recipes] if options.all_precisions else [target]
    reports = [pathlib.Path(options.report)] if options.report else []
    if reports and reports[0].suffix not in (".html", ".json", ".md"):
        raise RecipeError(
            "--report expects a name that ends in .md, for a model card, or one that ends in .html or .json. "
            f"Received: {options.report!r}."
        )
    arrays = [t.with_suffix(suffix) for t in targets for suffix in (".h", ".cc")] if options.c_array else []
    check_writable(options, (*targets, *arrays, *reports))
    wanted = getattr(options, "test_vectors", None)
    if wanted is not None and wanted < 1:
        raise RecipeError(f"--test-vectors expects a positive number. Received: {wanted}.")
    for folder in map(vectors_of, targets) if wanted else ():
        if folder.exists() and not (folder.is_dir() and options.overwrite):
            raise RecipeError(f"{folder} exists already. Use --overwrite to replace what is in the folder.")
    return targets


def vectors_of(target: pathlib.Path) -> pathlib.Path:
    """The folder of the test vectors of a file."""
    return target.with_name(f"{target.stem}_vectors")


def output_of(options, *suffixes: str) -> pathlib.Path:
    """The file to write, by its suffix."""
    target = pathlib.Path(options.output)
    if target.suffix not in suffixes:
        raise RecipeError(f"-o expects a name that ends in {' or '.join(suffixes)}. Received: {options.output!r}.")
    return target


def check_writable(options, paths: Iterable[pathlib.Path]) -> None:
    """Whether files can be written: before any work."""
    for path in paths:
        folder = path.parent
        if not folder.is_dir():
            raise RecipeError(f"The folder {folder} for {path.name} does not exist. Create it first.")
        if not os.access(folder, os.W_OK):
            raise RecipeError(f"No permission to write into the folder {folder}.")
        if path.is_dir():
            raise RecipeError(f"{path} is a folder. Expected the name of a file.")
        if path.exists() and not options.overwrite:
            raise RecipeError(f"{path} exists already. Use --overwrite to replace it.")
        if path.exists() and options.model and os.path.exists(options.model) and path.samefile(options.model):
            raise RecipeError(f"{path} is the model itself. Give another output.")


def check_sources(options) -> None:
    """Looks whether data files are there before TensorFlow loads, which takes seconds."""
    flags = ("calibration", "verify", "train", "validation", "test", "data")
    for flag, source in ((f"--{name}", getattr(options, name, None)) for name in flags):
        if source is not None and not glob.glob(source) and not os.path.exists(source):
            raise DataError(f"{flag}: there is no file or folder {source}.")


def check_streaming(options) -> None:
    """What is only for streaming models, and what is not for them."""
    given = [name for name in ("hop", "window", "windows") if getattr(options, name)]
    if not options.streaming and given:
        raise RecipeError(f"--{given[0]} is for --streaming.")
    for name in ("input_shape", "check_only", "dynamic"):
        if options.streaming and getattr(options, name):
            raise RecipeError(f"--{name.replace('_', '-')} is not for --streaming.")
    if options.streaming and _batch_size(options.batch_size) != 1:
        raise RecipeError("--streaming makes files of one stream: leave --batch-size out.")


def check_calibration(options, ranges: Mapping, function: str | None = None) -> None:
    """Integer activations need data, unless the model brings the ranges that it was trained with.

    Args:
        function: whose options these are, in a file of several.
    """
    precision = precision_of(options)
    needs = Recipe(precision, activations=options.activations).has_integers(precision)
    if options.calibration is None and not ranges and (needs or options.all_precisions):
        what = "--all-precisions" if options.all_precisions else f"--precision {precision}"
        of, data = (f" of {function}", f"{function}=DATA") if function else ("", "DATA")
        raise RecipeError(f"{what} needs calibration data for the ranges of the activations{of}: --calibration {data}.")


def input_shapes(items: list[str], model) -> dict[str, tuple[int, ...]]:
    from tfstruct.convert.export import signature_of

    names = [spec.name for spec in signature_of(model).inputs]
    shapes = {}
    for item in items:
        name, equals, dims = item.rpartition("=")
        if not equals and len(names) > 1:
            raise RecipeError(f"--input-shape expects NAME=D,D,... for a model with the inputs {names}.")
        shapes[name or names[0]] = numbers("--input-shape", dims, int)
    return shapes


def numbers(flag: str, text: str | None, kind: Callable, count: int | None = None):
    if text is None:
        return None
    try:
        values = tuple(kind(part) for part in text.replace("x", ",").split(","))
    except (ValueError, argparse.ArgumentTypeError):
        raise RecipeError(f"{flag} expects numbers separated by commas. Received: {text!r}.") from None
    if count is not None and len(values) != count:
        raise RecipeError(f"{flag} expects {count} numbers. Received: {text!r}.")
    return values


def _types(flag: str, items: list[str]) -> str | dict[str, str] | None:
    """One type for all, or types by name."""
    if len(items) == 1 and "=" not in items[0]:
        return items[0]
    pairs = [item.rpartition("=") for item in items]
    if not all(name and kind for name, _, kind in pairs):
        raise RecipeError(f"{flag} expects one TYPE for all, or NAME=TYPE for each. Received: {', '.join(items)}.")
    return {name: kind for name, _, kind in pairs} or None


def _batch_size(text: str) -> int | None:
    if text == "dynamic":
        return None
    try:
        return int(text)
    except ValueError:
        raise RecipeError(f"--batch-size expects a number or 'dynamic'. Received: {text!r}.") from None


def names_tflite(path: str) -> bool:
    """Whether a name is that of a .tflite file."""
    return path.lower().endswith(TFLITE)


def is_tflite(options) -> bool:
    """Whether the model is a float .tflite file, looked at before TensorFlow loads.

    Raises:
        ModelError: there is no such file.
        RecipeError: an option for Keras models only.
    """
    if not names_tflite(options.model):
        return False
    if not os.path.isfile(options.model):
        raise ModelError(f"There is no file {options.model}.")
    for flag in ("optimize", "input_shape", "signature", "streaming", "dynamic"):
        if getattr(options, flag, None):
            raise RecipeError(f"--{flag.replace('_', '-')} is for Keras models. Received a .tflite file.")
    return True


@contextlib.contextmanager
def warnings_as_lines(options) -> Iterator[list[str]]:
    """What is warned of within is a line on stderr each, but for what a report says: the list that is handed out."""
    import warnings

    in_report: list[str] = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield in_report
    for warning in said:
        text = " ".join(str(warning.message).split())
        known = any(text.casefold().rstrip(".") == line.casefold().rstrip(".") for line in in_report)
        if not options.quiet and issubclass(warning.category, UserWarning) and not known:
            print(f"warning: {text}", file=sys.stderr)


def read_model(options):
    """The `Legacy` of the model file; what is lost of it is a line on stderr."""
    from tfstruct import legacy

    with warnings_as_lines(options):
        return legacy.read(options.model, trust=options.trust, signature=options.signature)


def load_model(options):
    """The Keras model of the model file, without what its source knew besides."""
    from tfstruct import legacy

    legacy.check_path(options.model)
    import_modules(options.imports)
    return read_model(options).model


def import_modules(modules: list[str]) -> None:
    if modules and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for name in modules:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            raise RecipeError(f"--import {name} failed: {type(error).__name__}: {error}.") from error
