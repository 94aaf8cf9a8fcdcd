"""`dequantize`: the plain model of a twin, with the weights that the quantized file will hold."""

import keras

from tfstruct.errors import ArgumentTypeError
from tfstruct.graph.copying import copied
from tfstruct.graph.kernels import kernels
from tfstruct.quantize.twin import Twin
from tfstruct.reporting import ChangeReport, carrying
from tfstruct.reporting.tables import counted


def dequantize(twin: Twin) -> keras.Model:
    """A copy of the plain float model with rounded kernels: s q, the step s of each output channel times integers q.

    Activations are not rounded in it; kernels that the scheme leaves in float and tables of embeddings are as they
    were. It is for looking at the weights, and for going on training. `convert.dequantize` does the same from a
    `.tflite` file.

    Args:
        twin: of `QuantizeAware`, `calibrate` or `Twin`; neither it nor its model is changed.

    Returns:
        A copy of the twin's model, not compiled; `.report` says which kernels are rounded.

    Raises:
        ArgumentTypeError: it is no twin.

    Example:
        >>> plain = tfstruct.quantize.dequantize(tfstruct.quantize.calibrate(model, x))
        >>> kernel = plain.get_layer("hidden").kernel.numpy()
        >>> max(len(np.unique(column)) for column in kernel.T) <= 255  # one step for each output channel
        True
    """
    if not isinstance(twin, Twin):
        raise ArgumentTypeError(
            f"`twin` must be a Twin, as `QuantizeAware`, `calibrate` or `Twin(model)` make it. Received: {twin!r}."
        )
    model = copied(twin.model)
    weights = {kernel.name: kernel.variable for kernel in kernels(model, depthwise=True)}
    quantized = twin.simulation.quantized_weights()
    for name, (_, value) in quantized.items():
        weights[name].assign(value)
    title = f"{model.name}: {counted(len(quantized), 'kernel')} with the values that the file holds"
    left = tuple((name, "it is not rounded") for name in weights if name not in quantized)
    return carrying(model, ChangeReport(title, tuple((name, "rounded") for name in quantized), left))
