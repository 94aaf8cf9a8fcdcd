"""A model made small within a budget."""

import json
import pathlib
import sys

from tfstruct.cli.arguments import (
    add_compression,
    add_device,
    add_model,
    add_model_file,
    add_output,
    add_preprocessing,
    parser,
)
from tfstruct.cli.exit_status import BELOW, FINE, fail
from tfstruct.cli.options import (
    check_devices,
    check_sources,
    import_modules,
    preprocess_of,
    read_model,
    require_output,
    targets_of,
    warnings_as_lines,
)
from tfstruct.cli.showing import display_of
from tfstruct.convert.recipe import Recipe
from tfstruct.errors import BudgetError, RecipeError
from tfstruct.terminal import console

# What the budget decides, or what is there for conversions only.
_OTHERS = (
    "precision", "all_precisions", "activations", "rounding", "keep_float", "layer", "allow_float", "no_rewrite",
    "optimize", "float_io", "input_type", "output_type", "engine", "batch_size", "input_shape", "calibration",
    "dynamic", "percentile", "samples", "verify", "min_accuracy", "min_agreement", "min_sqnr", "per_layer",
    "check_only", "profile", "no_range_check", "test_vectors", "labels_file", "description", "model_version", "author",
    "license",
)  # fmt: skip


def compress_arguments(parser) -> None:
    add_model(parser, "OUT.tflite")
    add_compression(parser.add_argument_group("budget and training"))
    add_preprocessing(parser.add_argument_group("data"))
    add_device(parser.add_argument_group("device"))
    add_output(parser.add_argument_group("output"))
    add_model_file(parser.add_argument_group("the model's file"))


def compress(options) -> int:
    """Trains, writes the file and prints the report; exit status 1 where only less than the budget was found."""
    from tfstruct import legacy
    from tfstruct.compression.budget import Budget

    _check(options)
    check_devices(options, [options.target] if options.target else [])
    budget = Budget.of(options.budget)
    if options.latency_table:
        budget = Budget.of({**budget.to_dict(), "latency_table": options.latency_table})
    target = targets_of(options, [Recipe()])[0]
    check_sources(options)
    legacy.check_path(options.model)
    import_modules(options.imports)
    model = read_model(options).model

    from tfstruct.compression import compress
    from tfstruct.compression.progress import told_by

    status = FINE
    with warnings_as_lines(options) as in_report, display_of(options) as show:
        try:
            made = compress(
                model, options.train, options.validation, budget,
                strategy=_strategy(options.strategy),
                test=options.test, epochs=options.epochs, learning_rate=options.learning_rate,
                target=options.target or "mobile", metric=options.metric, labels=options.labels,
                preprocess=preprocess_of(options), workdir=options.workdir, seed=options.seed,
                progress=told_by(show), verbose=0,
            )  # fmt: skip
        except BudgetError as error:
            if error.best is None:
                raise
            made, status = error.best, BELOW
        in_report += made.report.warnings
    made.file.save(target)
    written = [target]
    if options.c_array:
        from tfstruct.convert.micro import write_c_array

        written += map(pathlib.Path, write_c_array(made.file.content, target))
    _print_report(options, made.report, written)
    if status == BELOW:
        return fail(f"The budget is missed: {'; '.join(made.report.limits.misses(made.report.result))}.", BELOW)
    return status


def _strategy(said: str) -> str | list[str]:
    """One of those that `compress` knows by a name, or steps."""
    from tfstruct.compression.compressing import BY_NAME

    return said if said in BY_NAME else said.split(",")


def refuse_without_budget(options) -> None:
    """Arguments of a compression that would do nothing."""
    names = ("train", "validation", "test", "epochs", "learning_rate", "strategy", "metric", "workdir", "seed")
    given = [name for name in names if getattr(options, name) != parser().get_default(name)]
    if given:
        raise RecipeError(f"--{given[0].replace('_', '-')} belongs to a compression, which needs --budget.")


def _check(options) -> None:
    """What can be said before TensorFlow loads."""
    if options.budget is None:
        raise RecipeError('A compression needs a budget: --budget "accuracy_drop=1%,macs=50%".')
    given = [name for name in _OTHERS if getattr(options, name) != parser().get_default(name)]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise RecipeError(f"--budget decides by itself what {flags} would say. Leave it out, or go without --budget.")
    for name in ("train", "validation"):
        if getattr(options, name) is None:
            raise RecipeError(f"--budget needs data: --train DATA --validation DATA. --{name} is missing.")
    require_output(options)


def _print_report(options, report, written) -> None:
    if options.report:
        report.save(options.report)
    if options.json:
        print(json.dumps(report.to_dict(), indent=1))
    elif not options.quiet:
        screen = console(sys.stdout)
        for decision in report.decisions:
            does = "does" if decision.taken else "does not"
            screen.print(f"{does} {decision.kind}: {decision.reason}", markup=False, highlight=False)
        screen.print(report.table())
        for warning in report.warnings:
            screen.print(f"warning: {warning}", style="yellow", markup=False)
        for path in written:
            screen.print(f"wrote {path}", markup=False, highlight=False)
