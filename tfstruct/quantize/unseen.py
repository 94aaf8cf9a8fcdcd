"""What of a layer happens between operators of the file, and is not simulated."""

import keras

from tfstruct.graph import is_training_only
from tfstruct.graph.endings import activation_of
from tfstruct.graph.operation_traits import function_traits, traits_of
from tfstruct.keras_internals.layer_parts import all_layers
from tfstruct.quantize.rounding_points import is_norm


def unseen(op: keras.Operation) -> str:
    """Which values inside of an operation the file rounds and the twin does not; empty where there are none."""
    if _several_operators(op):
        return "its kernels and its result are rounded, the values inside are not"
    name = activation_of(op)
    function = function_traits(name)
    if function.tensors == 1 or function.operator or not function.elementwise:
        return ""
    return f"{name} is several operators of the file: what it makes is rounded, the values inside are not"


def _several_operators(op: keras.Operation) -> bool:
    traits = traits_of(op)
    if not isinstance(op, keras.Layer) or traits.kernel or is_norm(op) or traits.reads_shape or is_training_only(op):
        return False
    own = not type(op).__module__.startswith(("keras.", "tfstruct."))
    several = traits.affine or bool(traits.statistics and not traits.function)
    return own or bool(op.weights) or len(all_layers(op)) > 1 or several
