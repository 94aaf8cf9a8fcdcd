"""`tfstruct COMMAND ...`: one parser for all jobs, and what it does with their arguments."""

import dataclasses
import sys
from collections.abc import Callable

import tfstruct
from tfstruct.cli import arguments, compressing, configuration, converting, demonstration, editing, looking, packing
from tfstruct.cli.completion import complete, completion_arguments
from tfstruct.cli.exit_status import ended, run_as_process, without_traceback
from tfstruct.cli.parsing import Parser
from tfstruct.errors import RecipeError


@dataclasses.dataclass(frozen=True)
class Command:
    """A job.

    Attributes:
        what: it does, in one line.
        add_arguments: to its parser.
        run: it; returns the exit status.
        examples: three of it: what follows its name, and what that does.
    """

    what: str
    add_arguments: Callable[[Parser], None]
    run: Callable
    examples: tuple[tuple[str, str], ...]


COMMANDS = {
    "convert": Command(
        "a trained Keras model to a .tflite file, verified against the model",
        converting.convert_arguments,
        converting.convert,
        (
            ("model.keras -o model.tflite", "a float file, compared with the model on random inputs"),
            (
                "model.h5 -o model.tflite --precision int8 --calibration images/ --resize 96x96 --scale 1/255",
                "an integer file; ranges come from a folder of images, with pixels in 0..1",
            ),
            (
                "model.keras -o model.tflite --precision int8 --calibration train.npz --verify test.npz "
                "--min-accuracy 83% --report report.html",
                "accuracy of both models on the test set; exit status 1 below 83 %",
            ),
        ),
    ),
    "compress": Command(
        "a smaller network within a budget: pruned, trained, quantized, verified",
        compressing.compress_arguments,
        compressing.compress,
        (
            (
                "model.keras -o small.tflite --train train.npz --validation val.npz "
                "--budget accuracy_drop=1%,macs=50%",
                "half of the work, at most one point of accuracy lost on the validation data",
            ),
            (
                "model.keras -o small.tflite --train train.tfrecord --validation val.tfrecord "
                "--budget tflite_bytes=56000 --target micro --c-array --workdir work",
                "for a microcontroller; called again with the same --workdir it goes on where it was",
            ),
            ("--config job.toml --epochs 40", "options from a file, one of them replaced"),
        ),
    ),
    "quantize": Command(
        "a model to an integer .tflite file, by data and without training",
        converting.quantize_arguments,
        converting.convert,
        (
            ("model.keras -o model.tflite --calibration train.npz", "int8, ranges from at most 500 samples"),
            (
                "model.keras -o model.tflite --calibration train.npz --precision int4 --rounding gptq --per-layer",
                "4-bit weights, rounded by GPTQ; lists which layers lose most",
            ),
            (
                "model.keras -o model.tflite --calibration images/ --calibrator percentile --keep-float 'head*'",
                "outliers cut off; some layers stay in float",
            ),
        ),
    ),
    "prune": Command(
        "plan which channels go, and remove them",
        editing.prune_arguments,
        editing.prune,
        (
            ("model.keras --budget macs=50% --save-plan plan.json", "a plan alone, to be read and edited"),
            ("model.keras --plan plan.json -o smaller.keras", "apply it"),
            (
                "model.keras --budget macs=50%,params=400000 --criterion activation --data train.npz --round-to 8 "
                "--exclude 'stem*' -o smaller.keras",
                "importance by activations on data; widths that are multiples of 8",
            ),
        ),
    ),
    "shrink": Command(
        "remove what has no effect on the outputs",
        editing.shrink_arguments,
        editing.shrink,
        (
            ("pruned.keras -o smaller.keras", "channels at zero, or read by no layer, go; the outputs stay"),
            ("pruned.keras", "what would go; writes nothing"),
            ("pruned.keras -o smaller.keras --tolerance 1e-4 --report shrink.html", "up to 0.0001 counts as zero"),
        ),
    ),
    "inspect": Command(
        "what is inside of a model or a .tflite file, and which devices it fits",
        looking.inspect_arguments,
        looking.inspect,
        (
            ("model.keras", "parameters, MACs, bytes and peak memory by layer; zeros where weights are sparse"),
            ("model.tflite --target all", "inputs, outputs, operators, weights; one table of all devices and boards"),
            ("model.keras --target edgetpu --target cortex-m4", "before training: exit status 1 if one does not fit"),
        ),
    ),
    "explain": Command(
        "which channels go together, what can go, and why the rest cannot",
        looking.explain_arguments,
        looking.explain,
        (
            ("model.keras", "the groups as a table"),
            ("model.keras --plot groups.svg", "the network drawn, groups by colour"),
            ("model.keras --report groups.html", "table and picture as one page"),
        ),
    ),
    "verify": Command(
        "how far a .tflite file agrees with its Keras model",
        looking.verify_arguments,
        looking.verify,
        (
            ("model.tflite model.keras test.npz", "errors, SQNR, top-1 agreement, accuracy of both"),
            ("model.tflite model.keras images/ --resize 96x96 --scale 1/255", "on a folder of images"),
            ("model.tflite model.keras test.npz --min-agreement 99% --min-sqnr 20", "exit status 1 below"),
        ),
    ),
    "profile": Command(
        "the time of every operator of a .tflite file",
        looking.profile_arguments,
        looking.profile,
        (
            ("model.tflite", "each operator alone, on this machine, the slowest first"),
            ("model.tflite --latency-table board.json", "by times measured on a device"),
            ("model.keras --precision int8 --report times.csv", "of the file that a model would become"),
        ),
    ),
    "pack": Command(
        "a model or .tflite file in the fewest bytes, without loss",
        packing.pack_arguments,
        packing.pack,
        (
            ("model.tflite -o model.tfpack", "and what gzip, zstd and Huffman codes would give"),
            ("model.keras -o model.tfpack --quiet", "without the report, which takes a second a megabyte"),
            ("model.keras -o model.tfpack --report sizes.html", "by tensor"),
        ),
    ),
    "unpack": Command(
        "what `pack` wrote as it was",
        packing.unpack_arguments,
        packing.unpack,
        (
            ("model.tfpack -o model.tflite", "the same bytes"),
            ("model.tfpack -o model.keras", "the same weights"),
            ("model.tfpack -o model.keras --import my_layers", "with layers of your own"),
        ),
    ),
    "demo": Command(
        "train, compress and convert a small network on shipped data",
        demonstration.demo_arguments,
        demonstration.demo,
        (
            ("", "under two minutes, writes nothing"),
            ("--json", "the figures as JSON"),
            ("-v", "a line a stage on a terminal too"),
        ),
    ),
    "completion": Command(
        "the script that completes commands and options in a shell",
        completion_arguments,
        complete,
        (
            ("bash > ~/.local/share/bash-completion/completions/tfstruct", "for bash, from the next shell on"),
            ('zsh > "${fpath[1]}/_tfstruct"', "for zsh"),
            ("tcsh > ~/.tfstruct.csh", "for tcsh: source that file"),
        ),
    ),
}  # fmt: skip


def parser() -> Parser:
    """The parser of `tfstruct`, with one a command."""
    whole = Parser(
        prog="tfstruct",
        description="Makes Keras models smaller and faster, converts them to .tflite files, and checks every step.",
        epilog="tfstruct COMMAND --help shows the options of a command, with examples.\n\n"
        "exit status: 0 fine, 1 done but below what was asked, 2 bad input, 3 a fault of tfstruct",
    )
    whole.add_argument("--version", action="version", version=f"tfstruct {tfstruct.__version__}")
    commands = whole.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser, title="commands")
    for name, command in COMMANDS.items():
        shown = "\n".join(f"  tfstruct {name} {how}\n      {what}" for how, what in command.examples)
        one = commands.add_parser(
            name, help=command.what, description=f"{command.what[0].upper()}{command.what[1:]}.",
            epilog=f"examples:\n{shown}",
        )  # fmt: skip
        command.add_arguments(one)
        _add_common(one)
    return whole


def main(argv: list[str] | None = None) -> int:
    """Runs a command and returns its exit status; what is wrong is one line on stderr."""
    given = sys.argv[1:] if argv is None else list(argv)
    verbose = any(one in ("-v", "--verbose") for one in given)
    return ended("tfstruct", lambda: without_traceback(lambda: _work(given), verbose))


def run() -> None:
    """The console entry."""
    run_as_process(main)


def _work(argv: list[str]) -> int:
    whole = parser()
    if not argv:
        whole.print_help()
        return 0
    name = argv[0]
    if not name.startswith("-") and name not in COMMANDS:
        raise RecipeError(_unknown(name))
    if name not in COMMANDS:
        whole.parse_args(argv)  # --help, --version, or an error
        raise RecipeError(f"No command was given. It must be one of {', '.join(COMMANDS)}.")
    one = whole.command(name)
    plain = {action.dest: action.default for action in one.arguments()}
    file = _value_of(argv, "--config")
    if file is not None:
        configuration.set_defaults(one, configuration.read(file, name), file)
    options = one.parse_args(argv[1:])
    options.given = {dest for dest, value in vars(options).items() if value != plain.get(dest)}
    for dest, value in vars(arguments.parser().parse_args([])).items():
        if not hasattr(options, dest):
            setattr(options, dest, value)  # of options that this command does not have
    options.stages, options.parser = True, whole
    if options.save_config:
        configuration.write(options.save_config, name, one, options)
    return COMMANDS[name].run(options)


def _add_common(parser: Parser) -> None:
    group = parser.add_argument_group("general")
    configuration.add_configuration(group)
    group.add_argument("-v", "--verbose", action="store_true", help="a line a stage, tracebacks of faults")


def _unknown(name: str) -> str:
    import difflib
    import os

    near = difflib.get_close_matches(name, COMMANDS, 1)
    if near:
        return f"There is no command {name!r}. Did you mean {near[0]}?"
    if os.path.exists(name) or "." in name:
        return f"A command comes first, such as: tfstruct convert {name} -o OUT.tflite. Received: {name!r}."
    return f"There is no command {name!r}. It must be one of {', '.join(COMMANDS)}."


def _value_of(argv: list[str], flag: str) -> str | None:
    """The value of an option, before the arguments are parsed."""
    for i, one in enumerate(argv):
        if one == flag and i + 1 < len(argv):
            return argv[i + 1]
        if one.startswith(f"{flag}="):
            return one.partition("=")[2]
    return None
