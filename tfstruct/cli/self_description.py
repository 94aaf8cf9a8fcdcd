"""`--labels-file`, `--author` and the like: what a file says of itself."""

import os

from tfstruct.errors import DataError, RecipeError

_TEXTS = {"description": "description", "model_version": "version", "author": "author", "license": "license"}


def check_labels(options) -> None:
    """Looks whether label files are there before TensorFlow loads."""
    named = [item.rpartition("=") for item in options.labels_file]
    for _, _, path in named:
        if not os.path.isfile(path):
            raise DataError(f"--labels-file: there is no file {path}.")
    if len(named) > 1 and not all(name for name, _, _ in named):
        raise RecipeError("--labels-file expects OUTPUT=FILE where it is given several times.")


def described(options, result):
    """The converted model with the metadata that was asked for."""
    texts = {field: getattr(options, name) for name, field in _TEXTS.items() if getattr(options, name)}
    if not texts and not options.labels_file:
        return result

    from tfstruct.convert.metadata import Metadata, read_labels

    names = [port.name for port in result.outputs]
    outputs = {}
    for item in options.labels_file:
        name, _, path = item.rpartition("=")
        if not name and len(names) > 1:
            raise RecipeError(f"--labels-file expects OUTPUT=FILE for a model with the outputs {names}.")
        outputs[name or names[0]] = {"labels": read_labels(path)}
    return result.with_metadata(Metadata(name=result.report.model, outputs=outputs, **texts))
