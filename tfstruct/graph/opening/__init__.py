"""Custom layers and subclassed models opened into known layers and operations, on the same variables.

`recording` notes what a layer's own `call` does with symbolic tensors, `comparison` tells recordings of several sizes
apart, `assembly` makes a functional model of them, with the `parts` and `loops` that Keras lacks. `opening` does it for
a model, of those layers that are `custom`; `by_itself` where nobody asked. `composites` are Keras's own layers of
several operators, which twins open too; of the operations of `symbolic`, Keras knows less on symbolic tensors than on
numbers.
`attributes` takes back what a `call` notes in its layer; `origin` keeps of which class an opened layer is; `closing`
makes that class again, by `arguments` that fit.
"""

from tfstruct.graph.opening.by_itself import no_more_opening, open_and_trace, open_by_itself
from tfstruct.graph.opening.opening import OpenedModel, open_model
from tfstruct.graph.opening.parts import Constant, Masked, Sized, Weight

__all__ = [
    "Constant", "Masked", "OpenedModel", "Sized", "Weight", "no_more_opening", "open_and_trace", "open_by_itself",
    "open_model",
]  # fmt: skip
