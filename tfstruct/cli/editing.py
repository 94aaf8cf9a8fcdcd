"""Commands from model to model: prune, shrink."""

import argparse
import pathlib

from tfstruct.cli.arguments import add_model, add_model_file, add_output, add_preprocessing, add_seed
from tfstruct.cli.exit_status import FINE
from tfstruct.cli.options import check_sources, check_writable, load_model, output_of, preprocess_of
from tfstruct.cli.parsing import Repeated
from tfstruct.cli.showing import REPORTS, check_report, show
from tfstruct.cli.spelled import count, number, share
from tfstruct.errors import DataError, PlanError, RecipeError
from tfstruct.files import save_model

# What decides about a plan, and does nothing where one is read from a file.
_PLANNING = ("budget", "criterion", "scope", "round_to", "min_channels", "max_ratio", "exclude", "data", "loss", "seed")
_CRITERIA_WITH_LOSS = ("gradient", "gradient_abs", "hessian")


def prune_arguments(parser) -> None:
    add_model(parser, "OUT.keras", "the smaller model; without it the plan alone is made")
    plan = parser.add_argument_group("plan")
    plan.add_argument("--budget", metavar="NAME=VALUE,...", help="what may stay, such as macs=50%%,params=400000")
    plan.add_argument("--plan", metavar="FILE.json", help="apply this plan instead of making one")
    plan.add_argument("--save-plan", metavar="FILE.json", help="write the plan, to be read, edited and applied")
    plan.add_argument("--criterion", metavar="NAME", default="l2", help="importance of a channel, such as l1, bn_scale")
    plan.add_argument("--scope", choices=("global", "local"), default="global", help="local: the same share everywhere")
    plan.add_argument("--round-to", type=count, metavar="N", help="kept widths are multiples of it")
    plan.add_argument("--min-channels", type=count, default=1, metavar="N", help="that stay in a layer")
    plan.add_argument("--max-ratio", type=share, default=1.0, metavar="S", help="of a group that may go")
    plan.add_argument("--exclude", metavar="PATTERN", action=Repeated, default=[], help="layers that stay whole")
    add_seed(plan)
    data = parser.add_argument_group("data, for criteria that look at it")
    data.add_argument("--data", metavar="DATA", help=".npz, .npy, .csv, .tfrecord or a folder of images")
    data.add_argument("--samples", type=count, default=500, metavar="N", help="at most")
    data.add_argument("--loss", metavar="NAME", help="for gradient and hessian, such as mse")
    add_preprocessing(data)
    _add_rest(parser)


def prune(options) -> int:
    """A plan of the channels that go, and the model without them."""
    _check_planning(options)
    preprocess = preprocess_of(options)
    target = [output_of(options, ".keras")] if options.output else []
    saved = [pathlib.Path(options.save_plan)] if options.save_plan else []
    if saved and saved[0].suffix != ".json":
        raise RecipeError(f"--save-plan expects a name that ends in .json. Received: {options.save_plan!r}.")
    check_writable(options, [*target, *saved, *check_report(options)])
    check_sources(options)
    model = load_model(options)

    from tfstruct.surgery import Plan, apply, plan_channels

    if options.plan:
        plan = Plan.load(options.plan)
    else:
        _check_loss(options.loss)
        data = None
        if options.data:
            from tfstruct.samples.for_model import samples_of

            needs = (
                f"--criterion {options.criterion} needs labels" if options.criterion in _CRITERIA_WITH_LOSS else None
            )
            data = samples_of(
                model, options.data, options.labels, need=needs, preprocess=preprocess, limit=options.samples
            )
        plan = plan_channels(
            model, _budget(options.budget), options.criterion, options.scope, round_to=options.round_to,
            min_channels=options.min_channels, max_ratio=options.max_ratio, exclude=options.exclude, data=data,
            loss=options.loss, seed=options.seed,
        )  # fmt: skip
    smaller = apply(model, plan) if target or options.plan else None
    for path in saved:
        plan.save(path)
    for path in target:
        save_model(smaller, path)
    show(options, [plan if smaller is None else smaller.report], [*saved, *target])
    return FINE


def shrink_arguments(parser) -> None:
    add_model(parser, "OUT.keras", "the smaller model; without it the report alone is made")
    how = parser.add_argument_group("what counts as zero")
    how.add_argument(
        "--tolerance", type=number, default=0.0, metavar="T", help="largest magnitude; above 0 not lossless"
    )
    _add_rest(parser)


def shrink(options) -> int:
    """The model without channels and branches that have no effect."""
    target = [output_of(options, ".keras")] if options.output else []
    check_writable(options, [*target, *check_report(options)])
    model = load_model(options)

    from tfstruct.surgery import shrink

    made = shrink(model, options.tolerance)
    for path in target:
        save_model(made.model, path)
    show(options, [made.report], target)
    return FINE


def _check_planning(options) -> None:
    if options.plan:
        given = [name for name in _PLANNING if name in options.given]
        if given:
            raise RecipeError(f"--plan applies a plan as it is. Leave --{given[0].replace('_', '-')} out.")
        if not pathlib.Path(options.plan).is_file():
            raise PlanError(f"--plan: there is no file {options.plan}.")
    elif options.budget is None:
        raise RecipeError("A plan needs a budget of what may stay: --budget macs=50%. Or apply one: --plan FILE.json.")
    if options.data is None and options.criterion in _CRITERIA_WITH_LOSS:
        raise DataError(f"--criterion {options.criterion} looks at data with labels: --data DATA --loss NAME.")


def _check_loss(name: str | None) -> None:
    import keras

    try:
        keras.losses.get(name)
    except ValueError:
        raise RecipeError(f"--loss must be one that Keras knows, such as mse. Received: {name!r}.") from None


def _budget(text: str):
    """A share of every group, as a number alone, or figures by name."""
    if "=" in text:
        return text
    try:
        return share(text)
    except argparse.ArgumentTypeError as error:
        raise RecipeError(f"--budget expects NAME=VALUE,..., or the share of every group that goes: {error}.") from None


def _add_rest(parser) -> None:
    add_output(parser.add_argument_group("output"), REPORTS)
    add_model_file(parser.add_argument_group("the model's file"))
