"""`tfstruct-convert --demo`."""

import json
import sys

from tfstruct.cli.outcome import FINE
from tfstruct.convert.recipe import PRECISIONS, Recipe
from tfstruct.errors import RecipeError
from tfstruct.terminal import console, progress_bar


def demo(options) -> int:
    """Trains on the shipped digits, prunes channels, converts in every precision, verifies on unseen images."""
    from tfstruct import demo as digits
    from tfstruct.convert import Converter

    if options.model or options.output or options.calibration or options.target or options.all_precisions:
        raise RecipeError("--demo brings its own model and data and writes no file. Use it alone, or with --json.")
    from tfstruct.convert.report import comparison

    (x, y), test = digits.digits()
    with progress_bar(not (options.quiet or options.json)) as progress:
        progress("train", 0, None)
        whole = digits.train(x, y)
        progress("prune", 0, None)
        model, plan = digits.prune(whole, x, y)
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
