"""A call of the original model computed on arrays, as a stream has it: without a mask, in inference."""

from collections.abc import Callable, Mapping

import keras
import numpy as np

from tfstruct.graph.call import Call
from tfstruct.keras_internals.graph_nodes import takes_training


def computed(call: Call, arrays: Mapping[int, np.ndarray], run: Callable | None = None) -> list[np.ndarray]:
    """Its outputs.

    Args:
        arrays: by the id of the tensors among its arguments.
        run: what is called in place of the operation.
    """
    args, kwargs = call.node.arguments.fill_in({k: keras.ops.convert_to_tensor(v) for k, v in arrays.items()})
    if kwargs.get("mask") is not None:  # a stream has no padding
        kwargs = {**kwargs, "mask": None}
    if takes_training(call.op):
        kwargs = {**kwargs, "training": False}
    made = (call.op if run is None else run)(*args, **kwargs)
    return [keras.ops.convert_to_numpy(x) for x in keras.tree.flatten(made)]
