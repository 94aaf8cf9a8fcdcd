"""Ranges of activations from sample data, run through a float file: one pass, one sample in memory at a time."""

import itertools
from collections.abc import Callable, Iterable

import numpy as np

from tfstruct.convert import flatbuffer
from tfstruct.convert.runtime import Runtime
from tfstruct.quantize.calibrators import Calibrator, usable


def activation_names(content: bytes) -> list[str]:
    """Names of the float tensors of the main graph that are no constants."""
    model = flatbuffer.read(content)
    graph = model.subgraphs[0]
    made = itertools.chain(graph.inputs, *(operator.outputs for operator in graph.operators))
    return [
        graph.tensors[i].name.decode()
        for i in made
        if i >= 0 and graph.tensors[i].type == flatbuffer.schema.TensorType.FLOAT32
    ]


def ranges(
    content: bytes,
    samples: Iterable[dict[str, np.ndarray]],
    make: Callable[[], Calibrator],
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, tuple[float, float]]:
    """Runs a float `.tflite` on samples and returns (low, high) by tensor name; every range includes 0 and is wider.

    Args:
        samples: dicts by input name, each with a batch axis of the file's own size.
        make: makes the calibrator of one tensor.
        progress: called with the number of samples done.
    """
    runtime = Runtime(content, intermediates=True)
    watch = {name: make() for name in activation_names(content)}
    for done, inputs in enumerate(samples, 1):
        runtime.run(inputs)
        for name, seen in watch.items():
            value = runtime.tensor(name)
            if value is not None and value.size:
                seen.update(value)
        progress(done)
    found = {name: usable(*seen.range()) for name, seen in watch.items()}
    return {name: ends for name, ends in found.items() if ends is not None}
