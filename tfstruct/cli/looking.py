"""Commands that look at models and files and write none: inspect, explain, profile, verify."""

import pathlib

from tfstruct.cli.arguments import (
    TARGET_HELP,
    add_boards_file,
    add_model,
    add_model_file,
    add_output,
    add_preprocessing,
    add_thresholds,
)
from tfstruct.cli.exit_status import BELOW, FINE, fail
from tfstruct.cli.options import (
    TFLITE,
    check_devices,
    check_sources,
    check_writable,
    load_model,
    names_tflite,
    preprocess_of,
    thresholds_of,
)
from tfstruct.cli.parsing import Repeated
from tfstruct.cli.showing import REPORTS, check_report, show
from tfstruct.cli.spelled import count, number, precision
from tfstruct.convert.recipe import Recipe
from tfstruct.errors import DataError, RecipeError
from tfstruct.precisions import OF_FILES


def inspect_arguments(parser) -> None:
    parser.add_argument(
        "model", metavar=f"MODEL|FILE{TFLITE}", help=f"a .keras or .h5 file, a SavedModel folder, or a {TFLITE} file"
    )
    device = parser.add_argument_group("device")
    device.add_argument(
        "--target", metavar="NAME", action=Repeated, default=[],
        help=f"also say what fits {TARGET_HELP}; once or more. all: one table, which --report writes",
    )  # fmt: skip
    add_boards_file(device)
    _add_precision(device, "of the file that a Keras model would become, for --target")
    add_output(parser.add_argument_group("output"), REPORTS)
    add_model_file(parser.add_argument_group("the model's file"))


def inspect(options) -> int:
    """Costs and zeros of a model; ports, operators and weights of a file; what fits devices."""
    check_devices(options, options.target, table=True)
    check_writable(options, check_report(options))
    if names_tflite(options.model):
        from tfstruct.convert import describe

        source, reports = options.model, [describe(options.model)]
    else:
        from tfstruct.analyze import profile

        source = load_model(options)
        reports = [profile(source)]
    from tfstruct.convert import check_target
    from tfstruct.convert.devices import is_all

    recipe = Recipe(precision=options.precision)
    targets = [check_target(source, name, recipe=recipe) for name in options.target]
    tables = [place for place, name in enumerate(options.target, len(reports)) if is_all(name)]
    show(options, [*reports, *targets], saved=tables[0] if tables else 0)
    # A table of all devices is a question, whose answer is never yes for all of them.
    unfit = [target for target, name in zip(targets, options.target, strict=True) if not (is_all(name) or target.fits)]
    for target in unfit:
        fail(target.problem(), BELOW)
    return BELOW if unfit else FINE


def explain_arguments(parser) -> None:
    add_model(parser)
    out = parser.add_argument_group("output")
    out.add_argument("--plot", metavar="FILE", help="draw the network with its groups: .png, .svg or .pdf")
    add_output(out, REPORTS)
    add_model_file(parser.add_argument_group("the model's file"))


def explain(options) -> int:
    """Which channels go together, what can go, and why the rest cannot."""
    pictures = [pathlib.Path(options.plot)] if options.plot else []
    check_writable(options, [*pictures, *check_report(options)])
    from tfstruct.analyze import explain

    report = explain(load_model(options))
    for path in pictures:
        report.plot(path)
    show(options, [report], pictures)
    return FINE


def profile_arguments(parser) -> None:
    parser.add_argument(
        "model", metavar=f"FILE{TFLITE}|MODEL",
        help=f"a {TFLITE} file; or a Keras model, whose file is drafted with random ranges",
    )  # fmt: skip
    how = parser.add_argument_group("timing")
    how.add_argument("--threads", type=count, default=1, metavar="N", help="of the interpreter")
    how.add_argument("--seconds", type=number, default=0.1, metavar="S", help="for each operator")
    how.add_argument("--latency-table", metavar="FILE.json", help="estimate from times measured on a device instead")
    _add_precision(how, "of the file that a Keras model would become")
    add_output(parser.add_argument_group("output"), REPORTS)
    add_model_file(parser.add_argument_group("the model's file"))


def profile(options) -> int:
    """The times of a file's operators, each alone, on this machine, or by a device's table."""
    from tfstruct.convert.latency import LatencyTable, by_time, profile_operators

    table = LatencyTable.read(options.latency_table) if options.latency_table else None
    check_writable(options, check_report(options))
    if not 0 < options.seconds < float("inf"):
        raise DataError(f"--seconds must be positive and finite. Received: {options.seconds:g}.")
    if names_tflite(options.model):
        from tfstruct.convert.verification import read_content

        content, layers = read_content(options.model), None
    else:
        from tfstruct.convert.draft import draft

        content, layers = draft(load_model(options), options.precision)
    if table is None:
        timed = profile_operators(content, layers, options.threads, options.seconds)
        show(options, [LatencyTable(tuple(by_time(timed)))])
    else:
        show(options, [table.estimate(content, layers)])
    return FINE


def verify_arguments(parser) -> None:
    parser.add_argument("file", metavar=f"FILE{TFLITE}", help="the file")
    add_model(parser)
    parser.add_argument(
        "--function", metavar="NAME", help="of a file that has several (signatures): the one to compare"
    )
    parser.add_argument("data", metavar="DATA", help=".npz, .npy, .csv, .tfrecord or a folder of images")
    data = parser.add_argument_group("data")
    add_preprocessing(data)
    data.add_argument("--samples", type=count, metavar="N", help="at most; default: all")
    add_thresholds(parser.add_argument_group("thresholds (exit status 1 below them)"))
    add_output(parser.add_argument_group("output"), REPORTS)
    add_model_file(parser.add_argument_group("the model's file"))


def verify(options) -> int:
    """How far a file agrees with the model that it came from, on samples."""
    require = Recipe(require=thresholds_of(options)).require
    preprocess = preprocess_of(options)
    check_writable(options, check_report(options))
    check_sources(options)
    with open(options.file, "rb") as file:
        content = file.read()
    from tfstruct.convert import split_signatures, verify

    parts = split_signatures(content)
    if options.function is not None and options.function not in parts:
        raise RecipeError(f"--function: the file has no {options.function!r}. It has: {', '.join(parts) or 'none'}.")
    if len(parts) > 1 and options.function is None:
        raise RecipeError(
            f"The file has several functions. Name one: --function {next(iter(parts))}, of {', '.join(parts)}."
        )
    content = parts.get(options.function, content)
    model = load_model(options)
    found = verify(model, content, options.data, options.labels, preprocess=preprocess, limit=options.samples)
    show(options, [found])
    missed = found.shortfalls(require)
    return fail(f"The file falls short: {'; '.join(missed)}.", BELOW) if missed else FINE


def _add_precision(group, what: str) -> None:
    group.add_argument("--precision", type=precision, choices=OF_FILES, default="int8", help=what)
