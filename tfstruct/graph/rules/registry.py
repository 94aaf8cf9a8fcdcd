"""Which rule an operation follows."""

import weakref
from collections.abc import Callable, Sequence

import keras
import numpy as np

from tfstruct.errors import ArgumentTypeError
from tfstruct.graph.call import Axes, Call
from tfstruct.graph.kinds import kind_of

Rule = Callable[[Call], Axes | list[Axes]]
_RULES: dict[type, Rule] = {}
_OWN_RULES: weakref.WeakKeyDictionary[keras.Operation, Rule] = weakref.WeakKeyDictionary()


def rule(*types: type):
    """Registers how channels pass through layers or operations of these types.

    The decorated function gets a `tfstruct.graph.Call` and returns the axes of its output, a tuple with one entry an
    axis: an array of labels, or None where the axis carries no channels; a list of such tuples for several outputs.
    On the way it notes what depends on the channels::

        @tfstruct.graph.rule(Scale)            # y = x * weight + bias, over the last axis
        def scale(call):
            channels = call.input.axes[-1]
            call.weight(call.op.kernel, Each(channels))
            call.weight(call.op.bias, Each(channels))
            return call.input.axes

        @tfstruct.graph.rule(Project)          # y = x @ kernel, `units` in its configuration
        def project(call):
            made = call.fresh(call.op.units)
            call.weight(call.op.kernel, In(call.input.axes[-1]), Out(made))
            call.set("units", made)
            call.macs(call.positions((*call.input.axes[:-1], made)), call.input.axes[-1], made)
            return (*call.input.axes[:-1], made)

    Multiply-accumulates that it does not note are counted on the operations that the layer's call traces to, as if no
    channel had gone.

    A type inherits the rule of its base class as long as it keeps what that class computes by: `call`, and methods and
    properties such as `convolution_op` and `kernel`.

    Args:
        *types: classes of layers or operations.

    Returns:
        The decorator for a function `Call -> axes` of the outputs, or a list of these.

    Example:
        >>> from tfstruct.graph import Each, rule
        >>> class Gate(keras.layers.Layer):
        ...     def build(self, shape):
        ...         self.gate = self.add_weight(shape=(shape[-1],), initializer="ones", name="gate")
        ...     def call(self, inputs):
        ...         return inputs * self.gate
        >>> @rule(Gate)
        ... def gate(call):
        ...     call.weight(call.op.gate, Each(call.input.axes[-1]))
        ...     return call.input.axes
        >>> gated = tfstruct.surgery.insert_layer(model, Gate(name="gate"), after="hidden").model
        >>> tfstruct.apply(gated, tfstruct.plan_channels(gated, 0.5)).get_layer("gate").gate.shape
        TensorShape([8])
    """

    def register(function):
        for kind in types:
            _RULES[kind] = function
        return function

    return register


def note_rule(op: keras.Operation, own: Rule) -> None:
    """Gives one operation a rule, whatever its type's is."""
    _OWN_RULES[op] = own


def rule_of(op) -> Rule | None:
    """The rule for an operation: its own, its type's, or that of a base class that it computes as."""
    if op in _OWN_RULES:
        return _OWN_RULES[op]
    kind = kind_of(op, _RULES)
    return None if kind is None else _RULES[kind]


def apply_rule(call: Call, closed: str = "") -> list[Axes]:
    """Runs the rule; an operation without one freezes what enters it. Returns the axes of every output.

    Args:
        closed: why the layer could not be opened, if that was tried.
    """
    found = rule_of(call.op)
    name = type(call.op).__name__
    if found is None:
        what = "layer" if isinstance(call.op, keras.layers.Layer) else "operation"
        own = isinstance(call.op, keras.layers.Lambda) or type(call.op).__module__.partition(".")[0] != "keras"
        custom = what == "layer" and own
        opens = "tfstruct.surgery.open_layers opens it, or " if custom and not closed else ""
        stays = f", which cannot be opened: {closed}" if closed else ""
        call.freeze_inputs(f"no rule knows the {what} {name} ({call.path}){stays}; {opens}tfstruct.graph.rule adds one")
        return call.untouched()
    result = found(call)
    outputs: Sequence[Axes] = result if isinstance(result, list) else [result]
    if len(outputs) != len(call.shapes):
        raise ArgumentTypeError(
            f"The rule for {name} has to return the axes of {len(call.shapes)} outputs. Received: {len(outputs)}."
        )
    checked = []
    for shape, axes in zip(call.shapes, outputs, strict=True):
        sizes = [None if labels is None else len(labels) for labels in axes]
        if len(axes) != len(shape) or any(None not in (n, m) and n != m for n, m in zip(sizes, shape, strict=True)):
            raise ArgumentTypeError(
                f"The rule for {name} labelled axes of sizes {sizes}; the output's shape is {shape}."
            )
        checked.append(tuple(None if labels is None else np.asarray(labels) for labels in axes))
    return checked
