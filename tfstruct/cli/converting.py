"""A model to a file, or what of it fits a device."""

import dataclasses
import json
import pathlib
import sys

from tfstruct.cli import functions, showing
from tfstruct.cli.arguments import add_all_of_conversion, add_model
from tfstruct.cli.exit_status import BELOW, FINE, fail
from tfstruct.cli.functions import functions_of
from tfstruct.cli.options import (
    check_calibration,
    check_devices,
    check_sources,
    check_streaming,
    import_modules,
    input_shapes,
    is_tflite,
    names_tflite,
    precision_of,
    read_model,
    recipes_of,
    require_output,
    targets_of,
    vectors_of,
)
from tfstruct.cli.self_description import check_labels, described
from tfstruct.cli.showing import display_of
from tfstruct.convert.recipe import Recipe
from tfstruct.errors import ConversionError, RecipeError, VerificationError
from tfstruct.terminal import console


def convert_arguments(parser) -> None:
    add_model(parser, "OUT.tflite", what="a .keras, .h5 or float .tflite file, or a SavedModel", required=False)
    add_all_of_conversion(parser)


def quantize_arguments(parser) -> None:
    """Those of a conversion, to int8 unless said otherwise."""
    convert_arguments(parser)
    parser.set_defaults(precision="int8")


def convert(options) -> int:
    from tfstruct import legacy

    by_function = functions_of(options)
    if by_function is not None:
        return _convert_functions(options, by_function)
    recipes = recipes_of(options)
    check_streaming(options)
    _check_device(options)
    if options.check_only:
        return _check_only(options, recipes)
    require_output(options)
    targets = targets_of(options, recipes)
    if not is_tflite(options):
        legacy.check_path(options.model)
    check_labels(options)
    check_sources(options)
    _say_precision(options)
    model, recipes = _load(options, recipes)
    check_calibration(options, recipes[0].ranges)

    from tfstruct.convert import Converter

    made, written, status = [], [], FINE
    with (
        display_of(options) as show,
        Converter(model, options.timeout, show) as converter,
    ):
        for recipe, target in zip(recipes, targets, strict=True):
            try:
                result = converter.convert(recipe)
            except VerificationError as error:
                result, status = error.model, fail(str(error), BELOW)
            except ConversionError as error:
                if not options.all_precisions:
                    raise
                # One precision without kernels does not spoil the others.
                status = fail(f"{recipe.precision}: {error}", BELOW)
                continue
            result = described(options, result)
            result.save(target)
            made.append(_annotated(options, result))
            written += [target, *_c_array(options, result, target), *_test_vectors(options, result, target)]
            unfit = made[-1].target and made[-1].target.problem()
            if unfit:
                status = fail(unfit, BELOW)
    if made:
        _print_reports(options, made, written)
    return status


def _convert_functions(options, by_function) -> int:
    """Several models to one file."""
    from tfstruct import legacy

    _check_device(options)
    require_output(options)
    recipes = {name: recipes_of(own)[0] for name, own in by_function.items()}
    (target,) = targets_of(options, [next(iter(recipes.values()))])
    check_labels(options)
    models = {}
    for own in by_function.values():
        legacy.check_path(own.model)
        check_sources(own)
    for name, own in by_function.items():
        models[name], (recipes[name],) = _load(own, [recipes[name]])
        check_calibration(own, recipes[name].ranges, name)
    with display_of(options) as show:
        result, status = functions.convert(models, recipes, show)
    result = described(options, result)
    result.save(target)
    reports = {name: _annotated(options, one) for name, one in result.functions.items()}
    report = dataclasses.replace(result.report, functions=reports)
    unfit = [one.target.problem() for one in reports.values() if one.target and one.target.problem()]
    if unfit:
        status = fail("; ".join(unfit), BELOW)
    showing.show(options, [report], [target])
    return status


def _say_precision(options) -> None:
    if options.precision is None and not (options.all_precisions or options.quiet or options.json):
        chosen = precision_of(options)
        if chosen != "float32":
            console(sys.stdout).print(
                f"precision: {chosen}, as --calibration was given without --precision", markup=False
            )


def _load(options, recipes: list[Recipe]):
    """The model, and the recipes with the shapes of its inputs and the ranges that it was trained with."""
    if is_tflite(options):
        return options.model, recipes
    import_modules(options.imports)
    source = read_model(options)
    model = source.model
    if options.optimize:
        model = _optimized(options, source)
    recipes = [r.replace(ranges=source.ranges, weight_limits=source.weight_limits) for r in recipes]
    if options.streaming:
        return _streaming(options, source, model), recipes
    if options.input_shape:
        recipes = [r.replace(input_shapes=input_shapes(options.input_shape, model)) for r in recipes]
    return model, recipes


def _streaming(options, source, model):
    """The model as one of a few frames a call."""
    from tfstruct.streaming import to_streaming

    if source.ranges:
        raise RecipeError("--streaming takes models without trained ranges: convert this one from its float model.")
    made = to_streaming(model, options.hop, window=options.window, windows=options.windows, time_axis=options.time_axis)
    if not (options.quiet or options.json):
        console(sys.stdout).print(str(made.report), markup=False, highlight=False)
    return made


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
    check_devices(options, [options.target] if options.target else [], table=options.check_only)
    if options.latency_table is not None:
        from tfstruct.convert.latency import LatencyTable

        LatencyTable.read(options.latency_table)


def _check_only(options, recipes: list[Recipe]) -> int:
    """Prints what fits and what does not, of a Keras model or a .tflite file; writes nothing."""
    from tfstruct import legacy
    from tfstruct.convert.devices import is_all
    from tfstruct.convert.targets import check_target

    model = options.model
    if names_tflite(model):
        reports = [check_target(model, options.target)]
    else:
        legacy.check_path(model)
        model, recipes = _load(options, recipes)
        try:
            reports = [check_target(model, options.target, recipe=recipe) for recipe in recipes]
        except ConversionError as error:
            return fail(str(error), BELOW)
    data = [report.to_dict() for report in reports]
    if options.json:
        print(json.dumps(data if options.all_precisions else data[0], indent=1))
    for report in reports:
        if not options.json and not options.quiet:
            console(sys.stdout).print(report.table())
        if not (report.fits or is_all(options.target)):
            fail(report.problem())
    return FINE if all(report.fits for report in reports) or is_all(options.target) else BELOW


def _annotated(options, result):
    """The report with what was asked for besides: errors by layer, times by operator, an estimate, the target."""
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


def _test_vectors(options, result, target: pathlib.Path) -> tuple[pathlib.Path, ...]:
    from tfstruct.convert.vectors import test_vectors

    if not options.test_vectors:
        return ()
    return test_vectors(result, count=options.test_vectors).save(vectors_of(target))


def _print_reports(options, reports, written) -> None:
    """Prints and writes the reports."""
    from tfstruct.convert.report import comparison, html_page
    from tfstruct.files import write_atomic

    data = [r.to_dict() for r in reports]
    text = json.dumps(data if options.all_precisions else data[0], indent=1)
    if options.report:
        cards = "\n".join(report.model_card() for report in reports)
        forms = {".json": text, ".md": cards}
        page = forms.get(pathlib.Path(options.report).suffix) or html_page(reports[0].model, reports)
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
