"""Arguments in groups, which commands share; and those of `tfstruct-convert`, which has them all."""

from collections.abc import Sequence

import tfstruct
from tfstruct.cli.parsing import Joined, Parser, Repeated
from tfstruct.cli.spelled import number, precision, share
from tfstruct.convert.recipe import BORDER_TYPES, DYNAMIC, ENGINES, ROUNDINGS
from tfstruct.precisions import ACTIVATIONS_OF_INT4, CALIBRATORS, OF_FILES

MODEL_FILE = "a .keras or .h5 file, or a SavedModel folder"
_EXAMPLES = """\
examples:
  tfstruct-convert model.keras -o model.tflite --precision int8 --calibration images/ --resize 96,96
      an integer file; ranges come from a folder of images
  tfstruct-convert model.h5 -o model.tflite --precision int8 --calibration train.tfrecord \\
      --calibrator percentile --verify test.tfrecord --min-accuracy 0.83 --report report.html
      the same from TFRecord files; accuracy of both models on the test set; exit status 1 below 83 %
  tfstruct-convert model.keras -o model.tflite --all-precisions --calibration train.npz --json
      one file a precision (model.int8.tflite, ...), the reports as JSON
  tfstruct-convert model.keras -o model.tflite --train train.npz --validation validation.npz \\
      --budget "accuracy_drop=0.5%,macs=50%" --epochs 20 --workdir work
      a smaller network: pruned, trained and quantized within the budget; called again it goes on where it was

exit status: 0 fine, 1 converted but below what was asked, 2 bad input
"""


def parser() -> Parser:
    parser = Parser(
        prog="tfstruct-convert",
        description="Converts a trained Keras model to a .tflite file and verifies the file against the model.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_FILE)
    parser.add_argument("-o", "--output", metavar="OUT.tflite", help="the file to write")
    parser.add_argument("--demo", action="store_true", help="train and convert a small network on shipped data")
    parser.add_argument("--version", action="version", version=f"tfstruct {tfstruct.__version__}")

    add_all_of_conversion(parser, compression=True)
    return parser


def add_model(
    parser, output: str = "", written: str = "the file to write", what: str = MODEL_FILE, required: bool = True
) -> None:
    """The model, and the file that is made of it, if any."""
    parser.add_argument("model", metavar="MODEL", nargs=None if required else "?", help=what)
    if output:
        parser.add_argument("-o", "--output", metavar=output, help=written)


def add_all_of_conversion(parser, *, compression: bool = False) -> None:
    """What decides about a file, in groups; with `compression` also what makes a smaller network first."""
    add_precision(parser.add_argument_group("precision"))
    add_streaming(parser.add_argument_group("streaming (a few frames a call, with states)"))
    data = parser.add_argument_group("data")
    add_calibration(data)
    add_preprocessing(data)
    if compression:
        add_compression(parser.add_argument_group("compression (a smaller network, trained within a budget)"))
    add_thresholds(parser.add_argument_group("thresholds (exit status 1 below them)"))
    out = parser.add_argument_group("output")
    add_output(out)
    add_conversion(out)
    device = parser.add_argument_group("device")
    add_device(device)
    add_timing(device)
    add_model_file(parser.add_argument_group("the model's file"), several=True)


def add_precision(how) -> None:
    """What the file's numbers are."""
    how.add_argument("--precision", type=precision, choices=OF_FILES, help="default: float32; int8 with --calibration")
    how.add_argument("--all-precisions", action="store_true", help="one file for each precision")
    how.add_argument("--float-io", action="store_true", help="float input and output, quantized inside")
    for side in ("input", "output"):
        how.add_argument(
            f"--{side}-type", metavar="[NAME=]TYPE", action=Repeated, default=[],
            help=f"{', '.join(BORDER_TYPES)}, for every {side} or by name",
        )  # fmt: skip
    how.add_argument("--activations", choices=ACTIVATIONS_OF_INT4, default=ACTIVATIONS_OF_INT4[0], help="of int4")
    how.add_argument("--rounding", choices=ROUNDINGS, default="auto", help="of the weights")
    how.add_argument("--keep-float", metavar="PATTERN", action=Repeated, default=[], help="layers kept in float32")
    how.add_argument(
        "--layer", metavar="PATTERN=PRECISION", action=Repeated, default=[], help="layers in another precision"
    )
    how.add_argument("--allow-float", action="store_true", help="operators left in float are no error")
    how.add_argument("--no-rewrite", action="store_true", help="leave layers without integer kernels as they are")
    how.add_argument(
        "--optimize", action="store_true", help="first fold, merge and drop what computes the same without"
    )
    how.add_argument("--engine", choices=ENGINES, default="auto", help="the quantizer")
    how.add_argument("--batch-size", metavar="N", default="1", help="fixed batch, or 'dynamic'")
    how.add_argument("--dynamic", choices=DYNAMIC, help="leave the batch, the sizes of inputs, or all open")
    how.add_argument(
        "--input-shape", metavar="[NAME=]D,D,...", action=Repeated, default=[], help="of one sample, where open"
    )


def add_streaming(how) -> None:
    """A model of whole sequences as one of a few frames a call."""
    how.add_argument(
        "--streaming", action="store_true", help="make it a model of a few frames a call; data are sequences"
    )
    how.add_argument("--hop", type=int, metavar="N", help="frames a call; default: as few as its strides allow")
    how.add_argument(
        "--window", type=int, metavar="N", help="frames to look at together, where the model leaves them open"
    )
    how.add_argument("--windows", metavar="PATTERN", action=Repeated, default=[], help="layers run anew on each window")
    how.add_argument("--time-axis", type=int, default=1, metavar="N", help="where the frames are, the batch as 0")


def add_calibration(data) -> None:
    """Samples for the ranges, and for the comparison of both models."""
    data.add_argument(
        "--calibration", metavar="DATA", action=Joined, help=".npz, .npy, .csv, .tfrecord or a folder of images"
    )
    data.add_argument("--calibrator", choices=CALIBRATORS, default="minmax", help="how ranges are found")
    data.add_argument("--percentile", type=float, default=99.99, metavar="P", help="kept by that calibrator")
    data.add_argument("--samples", type=int, default=500, metavar="N", help="calibration samples at most")
    data.add_argument(
        "--verify", metavar="DATA", action=Joined, help="compare both models on these; default: calibration samples"
    )
    data.add_argument("--no-range-check", action="store_true", help="take data of a scale unlike the training's")


def add_preprocessing(data) -> None:
    """What is done to samples, and where their labels are."""
    data.add_argument("--labels", metavar="NAME|FILE", action=Joined, help="key, column, feature or file of the labels")
    data.add_argument("--resize", metavar="H,W", help="images to this size")
    data.add_argument("--scale", type=number, metavar="S", help="multiply inputs by this, such as 1/255")
    data.add_argument("--mean", metavar="M[,M...]", help="subtract, for all or by channel")
    data.add_argument("--std", metavar="S[,S...]", help="then divide")
    data.add_argument("--preprocess", metavar="MODULE:FUNCTION", help="your own step on each sample")


def add_compression(small) -> None:
    """A smaller network, trained within a budget."""
    small.add_argument(
        "--budget", metavar="NAME=VALUE,...", help="such as accuracy_drop=0.5%%,macs=50%%,tflite_bytes=56000"
    )
    small.add_argument("--train", metavar="DATA", help="with labels; any kind that --calibration takes")
    small.add_argument("--validation", metavar="DATA", help="other samples, which all choices are made on")
    small.add_argument("--test", metavar="DATA", help="looked at once, at the end")
    small.add_argument("--epochs", type=int, default=10, metavar="N", help="of training in all")
    small.add_argument("--learning-rate", type=float, default=1e-3, metavar="R", help="the highest")
    small.add_argument(
        "--strategy",
        metavar="NAME|STEP,...",
        default="auto",
        help="auto, search, or steps: optimize, prune_channels, ...",
    )
    small.add_argument("--metric", metavar="NAME", help="what accuracy is; default: by the labels")
    small.add_argument("--workdir", metavar="DIR", help="keeps every stage, so that a killed run goes on")
    add_seed(small)


def add_seed(group) -> None:
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is random")


def add_thresholds(check) -> None:
    """What the file has to reach."""
    check.add_argument("--min-accuracy", type=share, metavar="A", help="of the file, 0..1 or a percentage")
    check.add_argument("--min-agreement", type=share, metavar="A", help="share of samples with equal top-1")
    check.add_argument("--min-sqnr", type=float, metavar="DB", help="signal to quantization noise of the outputs")


def add_output(out, reports: Sequence[str] = (".html", ".json", ".md")) -> None:
    """What is printed and written; the suffixes of reports, none where there is no report."""
    if reports:
        forms = f"{', '.join(reports[:-1])} or {reports[-1]}"
        out.add_argument("--report", metavar="FILE", help=f"write the report, {forms}")
        out.add_argument("--json", action="store_true", help="print the report as JSON")
    out.add_argument("--overwrite", action="store_true", help="replace existing files")
    out.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")


def add_conversion(out) -> None:
    """Of conversions alone."""
    out.add_argument(
        "--labels-file", metavar="[OUTPUT=]FILE", action=Repeated, default=[], help="one a line, into the file"
    )
    for name in ("description", "model-version", "author", "license"):
        out.add_argument(f"--{name}", metavar="TEXT", help="into the file's metadata")
    out.add_argument("--per-layer", action="store_true", help="list which layers lose most")
    out.add_argument("--timeout", type=float, default=600.0, metavar="S", help="for one conversion step")


TARGET_HELP = "a device such as micro, or a board such as cortex-m4:nano33ble (an unknown name lists all)"


def add_boards_file(device) -> None:
    """Boards of the user's own."""
    device.add_argument(
        "--boards", metavar="FILE.toml", action=Repeated, default=[], help="boards with flash and RAM, for --target"
    )


def add_device(device) -> None:
    """Where the file shall run."""
    device.add_argument("--target", metavar="NAME", help=f"{TARGET_HELP}; exit status 1 if unfit")
    add_boards_file(device)
    device.add_argument("--c-array", action="store_true", help="also write OUT.h and OUT.cc for a microcontroller")
    device.add_argument("--latency-table", metavar="FILE.json", help="estimate from times measured on a device")


def add_timing(device) -> None:
    """Of conversions alone."""
    device.add_argument(
        "--test-vectors", type=int, metavar="N", help="inputs and outputs with a main.cc, in the folder OUT_vectors"
    )
    device.add_argument("--check-only", action="store_true", help="show what fits the target, also of a .tflite MODEL")
    device.add_argument("--profile", action="store_true", help="time every operator alone, on this machine")
    device.add_argument("--no-latency", action="store_true", help="do not time the file on this machine")


def add_model_file(safe, *, several: bool = False) -> None:
    """How the model's file is read; `several` where one file can be made of several models."""
    what = "of a SavedModel folder, run as the graph it is"
    more = "; NAME=MODEL, once for each: models as functions of one file, whose data are NAME=DATA" if several else ""
    metavar = "NAME[=MODEL]" if several else "NAME"
    safe.add_argument("--signature", metavar=metavar, action=Joined, help=f"{what}{more}")
    safe.add_argument("--import", dest="imports", metavar="MODULE", action=Repeated, default=[], help="custom layers")
    safe.add_argument("--trust", action="store_true", help="let the model file run code (Lambda layers)")
