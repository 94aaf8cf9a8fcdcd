"""`open_layers`: custom layers and subclassed models as functional models of known layers."""

import dataclasses
import warnings
from collections.abc import Mapping

import keras

from tfstruct.arguments import checked
from tfstruct.graph.opening import open_model
from tfstruct.graph.trace import functional_of
from tfstruct.reporting import Report, Result, Sheet
from tfstruct.reporting.opened import HOW_TO_OPEN
from tfstruct.reporting.tables import counted
from tfstruct.surgery.compiling import compile_like

_STEPS = ("fit", "train_step", "test_step", "predict_step", "compute_loss", "compute_metrics")


@dataclasses.dataclass(frozen=True)
class OpeningReport(Report):
    """Which custom layers of a model were opened.

    Attributes:
        name: of the model.
        opened: paths of the layers that were opened.
        opaque: path of a custom layer that stays closed -> why, with the line of its code.
        subclassed: True if the model's own `call` was opened too.
        own_steps: methods by which the original trains or predicts in its own way; the opened model has Keras's.
    """

    name: str
    opened: tuple[str, ...]
    opaque: Mapping[str, str]
    subclassed: bool = False
    own_steps: tuple[str, ...] = ()

    def sheet(self) -> Sheet:
        itself = "its own call and " if self.subclassed else ""
        return Sheet(
            f"{self.name}: {itself}{counted(len(self.opened), 'layer')} opened, {len(self.opaque)} closed",
            ("layer", "what was done"),
            [(path, "opened") for path in self.opened],
            left_alone=tuple(self.opaque.items()),
            notes=(*((HOW_TO_OPEN,) if self.opaque else ()), *self._without_steps()),
        )

    def _without_steps(self) -> tuple[str, ...]:
        if not self.own_steps:
            return ()
        return (
            f"the original's own {', '.join(self.own_steps)} is not part of the opened model, which trains as any "
            "functional one: to train by it, train the original, whose weights these are",
        )


@checked
def open_layers(model: keras.Model, inputs=None) -> Result:
    """Opens custom layers: what their `call` does is recorded, and becomes a nested model of known layers.

    A layer that no rule of `tfstruct.graph` knows is a wall: no channel beside it can go, and its work is not seen
    inside. Opened, it is a functional model of Keras's layers and operations on the same variables, for
    `plan_channels`, `apply` and all others:

        >>> class Gate(keras.layers.Layer):
        ...     def build(self, shape):
        ...         self.gate = self.add_weight(shape=(shape[-1],), name="gate")
        ...
        ...     def call(self, x):
        ...         return x * keras.ops.sigmoid(self.gate)
        >>> inputs = keras.Input((4,))
        >>> x = Gate(name="gate")(keras.layers.Dense(8)(inputs))
        >>> gated = keras.Model(inputs, keras.layers.Dense(2)(x), name="gated")
        >>> print(tfstruct.surgery.open_layers(gated))
        gated: 1 layer opened, 0 closed
          layer  what was done
          gate   opened

    A subclassed model is opened with the shapes of its inputs: `open_layers(model, inputs=(None, 224, 224, 3))`.

    Each layer is recorded on two sets of sizes and in training; the whole is then compared with the original on
    inputs of a third size, in inference, in training and by its gradients, to 1e-5 and 1e-4 of the largest value, and
    on one sample. Gradients are those of weights of up to 2^20 numbers: larger ones would take the memory of the
    weights twice.
    What cannot be said as a graph of open sizes, or differs, stays closed, with the reason.

    Args:
        model: built. It is not changed; its layers are part of the new model too.
        inputs: shapes with the batch axis (None where open), `keras.KerasTensor`s or samples, in the structure that
            the model is called with. Needed for a subclassed model, and where a layer needs a size that the model
            leaves open.

    Returns:
        A `Result`. Its model is functional and compiled like the original, with its layers and variables: training one
        trains the other. An opened layer is a nested model with its name. It saves as plain Keras and loads
        without the custom classes once `tfstruct.surgery` is imported. Its report says what was `opened`, and what is
        `opaque` and why. A `train_step` (or the like) of the model's own is left behind, which a warning and the report
        say.

    Raises:
        ModelError: the model is not built, is subclassed and `inputs` is missing, or cannot be opened itself.
    """
    found = open_model(model, inputs)
    own = tuple(name for name in _STEPS if getattr(type(model), name) is not getattr(keras.Model, name))
    report = OpeningReport(found.model.name, found.opened, found.closed, functional_of(model) is None, own)
    for line in report._without_steps():
        warnings.warn(f"{model.name}: {line}.", stacklevel=2)
    compile_like(found.model, model)
    return Result(found.model, report)
