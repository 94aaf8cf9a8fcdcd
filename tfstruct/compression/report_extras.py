"""Extra content of the report: mistakes, sensitivity, names and shapes of inputs and outputs."""

import keras

from tfstruct.analyze import Sensitivity, sensitivity
from tfstruct.compression.execution import StrategyResult
from tfstruct.compression.measuring import run_file
from tfstruct.compression.mistakes import find_mistakes
from tfstruct.compression.task import Task
from tfstruct.convert.runtime import Runtime
from tfstruct.errors import ModelError

_SAMPLES = 128
_RATIOS = (0.25, 0.5, 0.75)


def report_extras(task: Task, made: StrategyResult) -> dict:
    """The fields `ports`, `mistakes` and `sensitivity` of the report."""
    runtime = Runtime(made.file.content)
    validation = task.validation
    labels = None if validation.labels is None else keras.tree.flatten(validation.labels)
    result = keras.tree.flatten(run_file(made.file.content, made.model, validation))
    return {
        "ports": {"inputs": runtime.inputs, "outputs": runtime.outputs},
        "mistakes": find_mistakes(validation.inputs, labels, task.measure.expected, result, task.aim.kinds),
        "sensitivity": _sensitivity(task),
    }


def _sensitivity(task: Task) -> Sensitivity | None:
    """Sensitivity of the original on a few samples: which layers could give up channels."""
    if task.some.labels is None:
        return None
    data = keras.tree.map_structure(lambda array: array[:_SAMPLES], task.some_data)
    try:
        return sensitivity(task.model, data, loss=task.aim.loss, ratios=_RATIOS, progress=False)
    except ModelError:  # no group of channels can go
        return None
