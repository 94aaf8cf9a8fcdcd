"""The command `tfstruct-convert`."""

import argparse
import importlib
import json
import os
import pathlib
import sys
from collections.abc import Mapping

import tfstruct
from tfstruct.convert.recipe import CALIBRATORS, ENGINES, PRECISIONS, ROUNDINGS, Recipe
from tfstruct.errors import ConversionError, RecipeError, TfstructError, VerificationError
from tfstruct.samples import Preprocess
from tfstruct.terminal import console, progress_bar, without_native_chatter

FINE, BELOW, BAD_INPUT = 0, 1, 2

_EXAMPLES = """\
examples:
  tfstruct-convert model.keras -o model.tflite --precision int8 --calibration images/ --resize 96,96
      an integer file; ranges come from a folder of images
  tfstruct-convert model.h5 -o model.tflite --precision int8 --calibration train.tfrecord \\
      --calibrator percentile --verify test.tfrecord --min-accuracy 0.83 --report report.html
      the same from TFRecord files; accuracy of both models on the test set; exit status 1 below 83 %
  tfstruct-convert model.keras -o model.tflite --all-precisions --calibration train.npz --json
      one file a precision (model.int8.tflite, ...), the reports as JSON

exit status: 0 fine, 1 converted but below what was asked, 2 bad input
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise RecipeError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="tfstruct-convert",
        description="Converts a trained Keras model to a .tflite file and verifies the file against the model.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a .keras or .h5 file, or a SavedModel folder")
    parser.add_argument("-o", "--output", metavar="OUT.tflite", help="the file to write")
    parser.add_argument("--demo", action="store_true", help="train and convert a small network on shipped data")
    parser.add_argument("--version", action="version", version=f"tfstruct {tfstruct.__version__}")

    how = parser.add_argument_group("precision")
    how.add_argument("--precision", choices=PRECISIONS, default="float32")
    how.add_argument("--all-precisions", action="store_true", help="one file for each precision")
    how.add_argument("--float-io", action="store_true", help="float input and output, quantized inside")
    how.add_argument("--activations", choices=("int8", "float32"), default="int8", help="of int4")
    how.add_argument("--rounding", choices=ROUNDINGS, default="auto", help="of the weights")
    how.add_argument("--keep-float", metavar="PATTERN", action="append", default=[], help="layers kept in float32")
    how.add_argument(
        "--layer", metavar="PATTERN=PRECISION", action="append", default=[], help="layers in another precision"
    )
    how.add_argument("--allow-float", action="store_true", help="operators left in float are no error")
    how.add_argument("--no-rewrite", action="store_true", help="leave layers without integer kernels as they are")
    how.add_argument(
        "--optimize", action="store_true", help="first fold, merge and drop what computes the same without"
    )
    how.add_argument("--engine", choices=ENGINES, default="auto", help="the quantizer")
    how.add_argument("--batch-size", metavar="N", default="1", help="fixed batch, or 'dynamic'")
    how.add_argument(
        "--input-shape", metavar="[NAME=]D,D,...", action="append", default=[], help="of one sample, where open"
    )

    data = parser.add_argument_group("data")
    data.add_argument("--calibration", metavar="DATA", help=".npz, .npy, .csv, .tfrecord or a folder of images")
    data.add_argument("--calibrator", choices=CALIBRATORS, default="minmax")
    data.add_argument("--percentile", type=float, default=99.99, metavar="P")
    data.add_argument("--samples", type=int, default=500, metavar="N", help="calibration samples at most")
    data.add_argument("--verify", metavar="DATA", help="compare both models on these; default: calibration samples")
    data.add_argument("--labels", metavar="NAME|FILE", help="key, column, feature or file of the labels")
    data.add_argument("--resize", metavar="H,W", help="images to this size")
    data.add_argument("--scale", type=float, metavar="S", help="multiply inputs by this")
    data.add_argument("--mean", metavar="M[,M...]", help="subtract, for all or by channel")
    data.add_argument("--std", metavar="S[,S...]", help="then divide")
    data.add_argument("--preprocess", metavar="MODULE:FUNCTION", help="your own step on each sample")
    data.add_argument("--no-range-check", action="store_true", help="take data of a scale unlike the training's")

    check = parser.add_argument_group("thresholds (exit status 1 below them)")
    check.add_argument("--min-accuracy", type=float, metavar="A", help="of the file, 0..1")
    check.add_argument("--min-agreement", type=float, metavar="A", help="share of samples with equal top-1, 0..1")
    check.add_argument("--min-sqnr", type=float, metavar="DB", help="signal to quantization noise of the outputs")

    out = parser.add_argument_group("output")
    out.add_argument("--report", metavar="FILE", help="write the report, .html or .json")
    out.add_argument("--per-layer", action="store_true", help="list which layers lose most")
    out.add_argument("--json", action="store_true", help="print the report as JSON")
    out.add_argument("--overwrite", action="store_true", help="replace existing files")
    out.add_argument("--quiet", action="store_true", help="print nothing but errors")
    out.add_argument("--timeout", type=float, default=600.0, metavar="S", help="for one conversion step")

    device = parser.add_argument_group("device")
    device.add_argument("--target", metavar="NAME", help="mobile, micro, ethos-u or edgetpu; exit status 1 if unfit")
    device.add_argument("--check-only", action="store_true", help="show what fits the target, also of a .tflite MODEL")
    device.add_argument("--c-array", action="store_true", help="also write OUT.h and OUT.cc for a microcontroller")
    device.add_argument("--profile", action="store_true", help="time every operator alone, on this machine")
    device.add_argument("--latency-table", metavar="FILE.json", help="estimate from times measured on a device")

    safe = parser.add_argument_group("custom code")
    safe.add_argument("--import", dest="imports", metavar="MODULE", action="append", default=[], help="custom layers")
    safe.add_argument("--trust", action="store_true", help="let the model file run code (Lambda layers)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status; what is wrong is one line on stderr."""
    try:
        options = _parser().parse_args(argv)
        return _demo(options) if options.demo else _convert(options)
    except TfstructError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("interrupted")
    except MemoryError:
        return _fail("out of memory")
    except OSError as error:
        return _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")


def run() -> None:
    """The console entry: what TensorFlow's libraries print to stderr themselves is dropped."""
    with without_native_chatter():
        status = main()
    sys.exit(status)


def _convert(options) -> int:
    from tfstruct import legacy

    if options.model is None:
        raise RecipeError("No model was given. Expected: tfstruct-convert MODEL -o OUT.tflite (or --demo).")
    recipes = _recipes(options)
    _check_device(options)
    if options.check_only:
        return _check_only(options, recipes)
    if options.output is None:
        raise RecipeError("No output was given. Expected: -o OUT.tflite.")
    targets = _targets(options, recipes)
    legacy.check_path(options.model)
    _check_sources(options)
    model, recipes = _load(options, recipes)
    _check_calibration(options, recipes[0].ranges)

    from tfstruct.convert import Converter

    made, written, status = [], [], FINE
    with (
        progress_bar(not (options.quiet or options.json)) as progress,
        Converter(model, options.timeout, progress) as converter,
    ):
        for recipe, target in zip(recipes, targets, strict=True):
            try:
                result = converter.convert(recipe)
            except VerificationError as error:
                result, status = error.model, _fail(str(error), BELOW)
            except ConversionError as error:
                if not options.all_precisions:
                    raise
                # One precision without kernels does not spoil the others.
                status = _fail(f"{recipe.precision}: {error}", BELOW)
                continue
            result.save(target)
            made.append(_annotated(options, result))
            written += [target, *_c_array(options, result, target)]
            unfit = made[-1].target and made[-1].target.problem()
            if unfit:
                status = _fail(unfit, BELOW)
    if made:
        _tell(options, made, written)
    return status


def _load(options, recipes: list[Recipe]):
    """The model, and the recipes with the shapes of its inputs and the ranges that it was trained with."""
    from tfstruct import legacy

    _import(options.imports)
    source = legacy.read(options.model, trust=options.trust)
    model = source.model
    if options.optimize:
        model = _optimized(options, source)
    recipes = [r.replace(ranges=source.ranges, weight_limits=source.weight_limits) for r in recipes]
    if options.input_shape:
        recipes = [r.replace(input_shapes=_input_shapes(options.input_shape, model)) for r in recipes]
    return model, recipes


def _optimized(options, source):
    """The model after all edits that leave its function as it is."""
    from tfstruct.surgery import optimize_inference

    if source.ranges:
        raise RecipeError(
            "--optimize replaces layers, but this model brings ranges that were trained for each of them. "
            "Convert it without --optimize."
        )
    made = optimize_inference(source.model)
    if not (options.quiet or options.json):
        console(sys.stdout).print(f"optimized: {str(made).splitlines()[0]}", markup=False, highlight=False)
    return made.model


def _check_device(options) -> None:
    """Looks at what is said of the device before TensorFlow loads."""
    if options.check_only and options.target is None:
        raise RecipeError("--check-only needs a device to check for: --target micro.")
    if options.target is not None:
        from tfstruct.convert.targets import target

        target(options.target)
    if options.latency_table is not None:
        from tfstruct.convert.latency import LatencyTable

        LatencyTable.read(options.latency_table)


def _check_only(options, recipes: list[Recipe]) -> int:
    """Prints what fits and what does not, of a Keras model or a .tflite file; writes nothing."""
    from tfstruct import legacy
    from tfstruct.convert.targets import check_target

    model = options.model
    if model.endswith(".tflite"):
        reports = [check_target(model, options.target)]
    else:
        legacy.check_path(model)
        model, recipes = _load(options, recipes)
        try:
            reports = [check_target(model, options.target, recipe=recipe) for recipe in recipes]
        except ConversionError as error:
            return _fail(str(error), BELOW)
    data = [report.to_dict() for report in reports]
    if options.json:
        print(json.dumps(data if options.all_precisions else data[0], indent=1))
    for report in reports:
        if not options.json and not options.quiet:
            console(sys.stdout).print(report.table())
        if not report.fits:
            _fail(report.problem())
    return FINE if all(report.fits for report in reports) else BELOW


def _annotated(options, result):
    """The report with what was asked for besides: errors by layer, times by operator, an estimate, the target."""
    import dataclasses

    from tfstruct.convert.latency import LatencyTable, profile_operators
    from tfstruct.convert.targets import check_target

    report = result.report
    if options.per_layer:
        check = dataclasses.replace(report.verification, layers=result.layer_errors())
        report = dataclasses.replace(report, verification=check)
    if options.profile:
        report = dataclasses.replace(report, profile=profile_operators(result.content, result.layers))
    if options.latency_table:
        table = LatencyTable.read(options.latency_table)
        report = dataclasses.replace(report, estimate=table.estimate(result.content, result.layers))
    if options.target:
        report = dataclasses.replace(report, target=check_target(result, options.target))
    return report


def _c_array(options, result, target: pathlib.Path) -> tuple[str, ...]:
    from tfstruct.convert.micro import write_c_array

    return write_c_array(result.content, target) if options.c_array else ()


def _tell(options, reports, written) -> None:
    """Prints and writes the reports."""
    from tfstruct.convert.report import comparison, html_page
    from tfstruct.files import write_atomic

    data = [r.to_dict() for r in reports]
    text = json.dumps(data if options.all_precisions else data[0], indent=1)
    if options.report:
        page = text if options.report.endswith(".json") else html_page(reports[0].model, reports)
        write_atomic(options.report, page.encode())
    if options.json:
        print(text)
    elif not options.quiet:
        screen = console(sys.stdout)
        if len(reports) > 1:
            screen.print(comparison(reports))
            for warning in dict.fromkeys(f"{r.precision}: {w}" for r in reports for w in r.warnings):
                screen.print(f"warning: {warning}", style="yellow", markup=False)
        else:
            screen.print(reports[0].table())
        for target in written:
            screen.print(f"wrote {target}", markup=False, highlight=False)


def _demo(options) -> int:
    """Trains on the shipped digits, prunes channels, converts in every precision, verifies on unseen images."""
    from tfstruct import demo
    from tfstruct.convert import Converter

    if options.model or options.output or options.calibration or options.target or options.all_precisions:
        raise RecipeError("--demo brings its own model and data and writes no file. Use it alone, or with --json.")
    from tfstruct.convert.report import comparison

    (x, y), test = demo.digits()
    with progress_bar(not (options.quiet or options.json)) as progress:
        progress("train", 0, None)
        whole = demo.train(x, y)
        progress("prune", 0, None)
        model, plan = demo.prune(whole, x, y)
        right = (whole.predict(test[0], verbose=0).argmax(1) == test[1]).mean()
        recipes = [Recipe(precision=p, calibration=x, calibrator="percentile", verification=test) for p in PRECISIONS]
        with Converter(model, options.timeout, progress) as converter:
            reports = [converter.convert(recipe).report for recipe in recipes]
    if options.json:
        print(json.dumps([r.to_dict() for r in reports], indent=1))
    elif not options.quiet:
        screen = console(sys.stdout)
        screen.print(
            f"UCI digits: {len(x):,} images to train and calibrate, {len(test[0]):,} unseen ones to verify; "
            f"{whole.count_params():,} parameters, {plan.before['macs']:,} multiply-accumulates, {right:.2%} right",
            highlight=False,
        )
        screen.print(
            f"without {sum(plan.removed.values())} of {sum(plan.widths.values())} channels: {model.count_params():,} "
            f"parameters, {plan.after['macs']:,} multiply-accumulates; this is what the files below hold",
            highlight=False,
        )
        screen.print(comparison(reports))
        screen.print(f"latency: median, one thread, {reports[0].processor}", highlight=False)
    return FINE


def _recipes(options) -> list[Recipe]:
    layers = {pattern: "float32" for pattern in options.keep_float}
    for item in options.layer:
        pattern, equals, precision = item.rpartition("=")
        if not equals or not pattern:
            raise RecipeError(f"--layer expects PATTERN=PRECISION. Received: {item!r}.")
        layers[pattern] = precision
    require = {
        "accuracy": options.min_accuracy,
        "top1_agreement": options.min_agreement,
        "sqnr_db": options.min_sqnr,
    }
    recipe = Recipe(
        precision=options.precision,
        calibration=options.calibration,
        calibrator=options.calibrator,
        percentile=options.percentile,
        samples=options.samples,
        labels=options.labels,
        preprocess=Preprocess(
            resize=_numbers("--resize", options.resize, int, 2),
            scale=options.scale,
            mean=_numbers("--mean", options.mean, float),
            std=_numbers("--std", options.std, float),
            function=options.preprocess,
        ),
        verification=options.verify,
        layers=layers,
        activations=options.activations,
        rounding=options.rounding,
        batch_size=_batch_size(options.batch_size),
        float_io=options.float_io,
        allow_float=options.allow_float,
        rewrite=not options.no_rewrite,
        engine=options.engine,
        require={k: v for k, v in require.items() if v is not None},
        check_range=not options.no_range_check,
        timeout=options.timeout,
    )
    if not options.all_precisions:
        return [recipe]
    if layers:
        raise RecipeError("--all-precisions converts whole models. Use --keep-float and --layer with one --precision.")
    return [recipe.replace(precision=p) for p in PRECISIONS]


def _targets(options, recipes: list[Recipe]) -> list[pathlib.Path]:
    """The files to write, checked before any work: suffix, folder, and whether they are there already."""
    target = pathlib.Path(options.output)
    if target.suffix != ".tflite":
        raise RecipeError(f"-o expects a name that ends in .tflite. Received: {options.output!r}.")
    targets = [target.with_suffix(f".{r.precision}.tflite") for r in recipes] if options.all_precisions else [target]
    reports = [pathlib.Path(options.report)] if options.report else []
    if reports and reports[0].suffix not in (".html", ".json"):
        raise RecipeError(f"--report expects a name that ends in .html or .json. Received: {options.report!r}.")
    arrays = [t.with_suffix(suffix) for t in targets for suffix in (".h", ".cc")] if options.c_array else []
    for path in (*targets, *arrays, *reports):
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
    return targets


def _check_sources(options) -> None:
    """Looks whether data files are there before TensorFlow loads, which takes seconds."""
    import glob

    from tfstruct.errors import DataError

    for flag, source in (("--calibration", options.calibration), ("--verify", options.verify)):
        if source is not None and not glob.glob(source) and not os.path.exists(source):
            raise DataError(f"{flag}: there is no file or folder {source}.")


def _check_calibration(options, ranges: Mapping) -> None:
    """Integer activations need data, unless the model brings the ranges that it was trained with."""
    needs = options.precision in ("int8", "int16x8") or (options.precision == "int4" and options.activations == "int8")
    if options.calibration is None and not ranges and (needs or options.all_precisions):
        what = "--all-precisions" if options.all_precisions else f"--precision {options.precision}"
        raise RecipeError(f"{what} needs calibration data for the ranges of the activations: --calibration DATA.")


def _input_shapes(items: list[str], model) -> dict[str, tuple[int, ...]]:
    from tfstruct.convert.export import signature_of

    names = [spec.name for spec in signature_of(model).inputs]
    shapes = {}
    for item in items:
        name, equals, dims = item.rpartition("=")
        if not equals and len(names) > 1:
            raise RecipeError(f"--input-shape expects NAME=D,D,... for a model with the inputs {names}.")
        shapes[name or names[0]] = _numbers("--input-shape", dims, int)
    return shapes


def _numbers(flag: str, text: str | None, kind: type, count: int | None = None):
    if text is None:
        return None
    try:
        values = tuple(kind(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise RecipeError(f"{flag} expects numbers separated by commas. Received: {text!r}.") from None
    if count is not None and len(values) != count:
        raise RecipeError(f"{flag} expects {count} numbers. Received: {text!r}.")
    return values


def _batch_size(text: str) -> int | None:
    if text == "dynamic":
        return None
    try:
        return int(text)
    except ValueError:
        raise RecipeError(f"--batch-size expects a number or 'dynamic'. Received: {text!r}.") from None


def _import(modules: list[str]) -> None:
    if modules and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for name in modules:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            raise RecipeError(f"--import {name} failed: {type(error).__name__}: {error}.") from error


def _fail(message: str, status: int = BAD_INPUT) -> int:
    print(f"tfstruct-convert: {' '.join(message.split())}", file=sys.stderr)
    return status
