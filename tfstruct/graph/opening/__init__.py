"""Custom layers and subclassed models opened into known layers and operations, on the same variables.

`recording` notes what a layer's own `call` does with symbolic tensors, `comparison` tells recordings of several sizes
apart, `assembly` makes a functional model of them, with the `parts` that Keras lacks; `opening` does it for a model.
"""

from tfstruct.graph.opening.opening import OpenedModel, open_model
from tfstruct.graph.opening.parts import Constant, Masked, Sized, Weight

__all__ = ["Constant", "Masked", "OpenedModel", "Sized", "Weight", "open_model"]
