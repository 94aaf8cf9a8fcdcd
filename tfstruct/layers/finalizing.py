"""`finalize`: a model of plain layers that computes what the trained one does in inference."""

import keras

from tfstruct.arguments import checked
from tfstruct.errors import ModelError
from tfstruct.graph import rewire, trace
from tfstruct.reporting import ChangeReport, carrying
from tfstruct.reporting.tables import counted


@checked
def finalize(model: keras.Model) -> keras.Model:
    """A copy in which the layers of this room are plain Keras layers; what it computes in inference stays.

    - `DropConnect`, `TargetedDropout`, `ConcreteDropout` become the layer inside, under the wrapper's name.
    - `VariationalDropout` too, with exact zeros for the weights that are noise.
    - `HardConcrete` becomes a frozen batch normalization of the gates, closed ones exactly zero.
    - `MonteCarloDropout` becomes `keras.layers.Dropout`: the only one that changes predictions, to those of mean
      weights.
    - Any other layer with a method `inference_layer() -> layer` becomes what that returns.

    Dropout that is the identity in inference stays, so the copy can be trained on. From here on `surgery.shrink`
    removes channels that are zero or that nothing reads, `surgery.optimize_inference` folds the gates into the weights.

    Args:
        model: a Sequential or functional model, also nested; not changed. The copy is not compiled.

    Returns:
        The copy; `.report` says what became of each layer.

    Raises:
        ModelError: the model's graph cannot be walked (a subclassed model), or a wrapper is called with
            `training=True`.

    Example:
        >>> noisy = tfstruct.layers.DropConnect(keras.layers.Dense(4, name="dense"), rate=0.3)
        >>> plain = tfstruct.layers.finalize(keras.Sequential([keras.Input((8,)), noisy]))
        >>> [type(layer).__name__ for layer in plain.layers]
        ['Dense']
    """
    graph = trace(model)
    edits, changes = {}, []
    for call in graph.calls:
        if hasattr(call.op, "inference_layer"):
            if call.argument("training"):
                raise ModelError(f"`{call.path}` is called with training=True: it has no form of inference.")
            if id(call.op) not in edits:
                plain = call.op.inference_layer()
                edits[id(call.op)] = _replaced(plain)
                changes.append((call.path, f"{type(call.op).__name__} became {type(plain).__name__}"))
    title = f"{model.name}: {counted(len(changes), 'layer')} made plain"
    return carrying(rewire(graph, edits).model, ChangeReport(title, tuple(changes)))


def _replaced(layer: keras.layers.Layer):
    def edit(step, run, *args, **kwargs):
        return layer(*args, **kwargs)

    return edit
