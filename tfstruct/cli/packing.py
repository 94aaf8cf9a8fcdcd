"""Commands for transport: pack, unpack."""

import pathlib

from tfstruct.cli.arguments import add_model_file, add_output
from tfstruct.cli.exit_status import FINE
from tfstruct.cli.options import TFLITE, check_writable, import_modules, load_model, names_tflite, output_of
from tfstruct.cli.showing import REPORTS, check_report, is_shown, show
from tfstruct.errors import RecipeError
from tfstruct.files import save_model, write_atomic

PACKED = ".tfpack"


def pack_arguments(parser) -> None:
    parser.add_argument("model", metavar=f"MODEL|FILE{TFLITE}", help=f"a Keras model or a {TFLITE} file")
    parser.add_argument("-o", "--output", metavar=f"OUT{PACKED}", help="the file to write")
    add_output(parser.add_argument_group("output"), REPORTS)
    add_model_file(parser.add_argument_group("the model's file"))


def pack(options) -> int:
    """A model or file in the fewest bytes, without loss."""
    if options.output is None:
        raise RecipeError(f"No output was given. Expected: -o OUT{PACKED}.")
    target = output_of(options, PACKED)
    check_writable(options, [target, *check_report(options)])
    is_file = names_tflite(options.model)
    source = options.model if is_file else load_model(options)

    from tfstruct.convert import pack

    packed = pack(source)
    packed.save(target)
    if options.json or options.report or is_shown(options):
        show(options, [packed.report], [target])
    return FINE


def unpack_arguments(parser) -> None:
    parser.add_argument("model", metavar=f"FILE{PACKED}", help="what `pack` wrote")
    parser.add_argument("-o", "--output", metavar="OUT", help=f"a .keras or {TFLITE} file, by what was packed")
    add_output(parser.add_argument_group("output"), ())
    add_model_file(parser.add_argument_group("the model's file"))


def unpack(options) -> int:
    """The model or file that was packed."""
    if options.output is None:
        raise RecipeError(f"No output was given. Expected: -o OUT.keras or -o OUT{TFLITE}.")
    target = output_of(options, ".keras", TFLITE)
    check_writable(options, [target])
    if not pathlib.Path(options.model).is_file():
        raise RecipeError(f"There is no file {options.model}. Expected what `tfstruct pack` wrote.")

    from tfstruct.convert import unpack

    import_modules(options.imports)
    found = unpack(options.model, trust=options.trust)
    suffix = TFLITE if isinstance(found, bytes) else ".keras"
    if target.suffix != suffix:
        raise RecipeError(f"{options.model} holds a {suffix} file. Expected: -o OUT{suffix}. Received: {target}.")
    if isinstance(found, bytes):
        write_atomic(target, found)
    else:
        save_model(found, target)
    if is_shown(options):
        print(f"wrote {target}")
    return FINE
