"""`tfstruct demo`, `tfstruct-convert --demo`."""

import json
import sys

from tfstruct.cli.exit_status import FINE
from tfstruct.cli.showing import display_of
from tfstruct.convert.recipe import Recipe
from tfstruct.errors import RecipeError
from tfstruct.precisions import OF_FILES
from tfstruct.terminal import console

BUDGET, EPOCHS = "accuracy_drop=3%,macs=50%", 12
_VALIDATION = 257  # of the training images: what choices are made on


def demo_arguments(parser) -> None:
    out = parser.add_argument_group("output")
    out.add_argument("--json", action="store_true", help="print the figures as JSON")
    out.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")
    out.add_argument("--timeout", type=float, default=600.0, metavar="S", help="for one conversion step")


def demo(options) -> int:
    """Trains on the shipped digits, compresses within a budget, converts the result in every precision, verifies on
    unseen images."""
    from tfstruct import demo as digits

    if options.model or options.output or options.calibration or options.target or options.all_precisions:
        raise RecipeError("--demo brings its own model and data and writes no file. Use it alone, or with --json.")
    from tfstruct.compression import compress
    from tfstruct.compression.progress import told_by
    from tfstruct.convert import Converter
    from tfstruct.convert.report import comparison

    (x, y), test = digits.digits()
    train, validation = (x[:-_VALIDATION], y[:-_VALIDATION]), (x[-_VALIDATION:], y[-_VALIDATION:])
    recipes = [Recipe(precision=p, calibration=x, calibrator="percentile", verification=test) for p in OF_FILES]
    with display_of(options) as show:
        show("train")
        whole = digits.train(x, y)
        made = compress(
            whole, train, validation, BUDGET, test=test, epochs=EPOCHS, learning_rate=3e-3, progress=told_by(show),
            verbose=0,
        )  # fmt: skip
        with Converter(made.model, options.timeout, show) as converter:
            reports = [converter.convert(recipe).report for recipe in recipes]
    if options.json:
        compressed = made.report.to_dict()
        print(json.dumps({"compression": compressed, "precisions": [r.to_dict() for r in reports]}, indent=1))
    elif not options.quiet:
        screen = console(sys.stdout)

        def say(text: str) -> None:
            screen.print(text, highlight=False, markup=False)

        say(f"UCI digits: {len(x):,} images to train, calibrate and choose by, {len(test[0]):,} unseen ones to verify")
        for decision in made.report.decisions:
            say(f"{'does' if decision.taken else 'does not'} {decision.kind}: {decision.reason}")
        screen.print(made.report.table())
        say("the smaller model in every precision, on the unseen images:")
        screen.print(comparison(reports))
        say(f"latency: median, one thread, {reports[0].processor}")
    return FINE
