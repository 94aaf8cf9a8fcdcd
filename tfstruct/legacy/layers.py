"""One Keras 2 layer as its Keras 3 layer: class and configuration; weights come later.

The rule for most layers is one and the same: the class of that name in `keras.layers`, with the arguments that
Keras 3 dropped left out. Where more differs, a function registered in `RULES` changes the configuration.
"""

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfstruct.errors import ModelError, one_line
from tfstruct.keras_internals import keras2

Config = dict[str, Any]

# Arguments of Keras 2 that say nothing about what a layer computes at inference, or that say it elsewhere.
_DROPPED = {
    "batch_input_shape",
    "dynamic",
    "input_shape",
    "input_length",
    "force_generator",
    "rng_type",
    "sparse",
    "softmax_robust_masking",
    "fused",
    "filters",
    "kernel_initializer",
    "kernel_regularizer",
    "kernel_constraint",
    "implementation",
}
# What Keras 3 has no counterpart for, with the only value that can be left out.
_REFUSED = {"time_major": False, "virtual_batch_size": None, "adjustment": None, "ragged": False, "groups": 1}
_RENAMED = {
    "AvgPool": "AveragePooling",
    "SyncBatchNormalization": "BatchNormalization",
    "BatchNormalizationV1": "BatchNormalization",
    "LSTMV2": "LSTM",
    "GRUV2": "GRU",
    "CuDNNLSTM": "LSTM",
    "RandomCrop": "Resizing",
}
RULES: dict[str, Callable[[Any, Config, "Notes"], Config]] = {}


class Notes:
    """What was changed, a line each, and how inner layers are made: `build(layer)`."""

    def __init__(self, build: Callable[[Any], keras.layers.Layer]):
        self.build = build
        self.lines: list[str] = []

    def add(self, layer: str, what: str) -> None:
        self.lines.append(f"{layer}: {what}")


def rule(*names: str):
    """Registers a rule: `(Keras 2 layer, configuration, notes) -> configuration` by class name."""

    def register(function):
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


@keras.saving.register_keras_serializable("tfstruct")
def keras2_hard_sigmoid(x):
    """`clip(0.2 x + 0.5, 0, 1)`: the slope of Keras 2; Keras 3 has 1/6."""
    return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)


@keras.saving.register_keras_serializable("tfstruct")
class ThresholdedReLU(keras.layers.Layer):
    """`x` where `x > theta`, 0 elsewhere; Keras 3 has it no longer."""

    def __init__(self, theta=1.0, **kwargs):
        super().__init__(**kwargs)
        self.theta = float(theta)

    def call(self, inputs):
        return inputs * keras.ops.cast(inputs > self.theta, inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "theta": self.theta}


def keras3_name(name: str) -> str:
    """A name as Keras 3 takes it: without slashes, which the MobileNetV3 of Keras 2 has."""
    return name.replace("/", "_")


def convert(layer, name: str, notes: Notes) -> keras.layers.Layer:
    """The Keras 3 layer for a Keras 2 layer, without weights.

    Raises:
        ModelError: a class or an argument without a counterpart; the message names the layer.
    """
    kind = _RENAMED.get(type(layer).__name__, type(layer).__name__)
    cls = {"ThresholdedReLU": ThresholdedReLU}.get(kind) or getattr(keras.layers, kind, None)
    custom = keras.saving.get_registered_object(_registered_name(layer))
    home = type(layer).__module__
    revived = home.startswith("tf_keras") and home.endswith("saved_model.load")  # of a class that is not here
    ours = home.split(".")[0] in ("tf_keras", "tensorflow_model_optimization")
    if custom is not None and (revived or not ours):
        cls = custom
    elif cls is None or not ours:
        if revived:
            raise ModelError(
                f"Layer {name!r} is a {type(layer).__name__}, which Keras 3 does not have, and no class is registered "
                "by that name with keras.saving.register_keras_serializable."
            )
        raise ModelError(
            f"Layer {name!r} is a {home}.{type(layer).__name__}, which Keras 3 does not have. "
            "Register a Keras 3 class of that name (keras.saving.register_keras_serializable), or save the model "
            "with tf_keras as a SavedModel, which runs as it is."
        )
    config = {**layer.get_config(), "name": name}
    config["dtype"] = policy_name(config.get("dtype"))
    config = RULES.get(kind, lambda layer, config, notes: config)(layer, config, notes)
    config = _clean(cls, kind, layer, config, notes)
    try:
        return cls(**config)
    except (TypeError, ValueError) as error:
        reason = one_line(error)
        raise ModelError(f"Keras 3 does not take the {kind} layer {name!r} as Keras 2 saved it: {reason}") from error


def _registered_name(layer) -> str:
    import tf_keras

    return tf_keras.saving.get_registered_name(type(layer))


def _clean(cls, kind: str, layer, config: Config, notes: Notes) -> Config:
    """Arguments that Keras 3 takes, with activations, initializers, regularizers and constraints of Keras 3."""
    accepted = _arguments(cls)
    out = {}
    for key, value in config.items():
        if key not in accepted:
            if key in _REFUSED and value != _REFUSED[key] and not (key == "groups" and "Depthwise" in kind):
                raise ModelError(
                    f"Layer {config['name']!r} has {key}={value!r}, which Keras 3 cannot do. "
                    f"Expected {_REFUSED[key]!r}: rebuild that layer without it in tf_keras and save again."
                )
            if key not in _DROPPED and key not in _REFUSED and value is not None:
                notes.add(config["name"], f"dropped {key}={value!r}, which Keras 3 does not have")
            continue
        if key.endswith("activation"):
            value = activation(getattr(layer, key, value), notes)
        elif key.endswith(("_initializer", "_regularizer", "_constraint")):
            value = _part(key, value, config["name"], notes)
        elif isinstance(value, list) and not kind.startswith(("Normalization", "LayerNorm", "Dot")):
            value = tuple(value) if key != "axis" else value[0] if len(value) == 1 else tuple(value)
        out[key] = value
    return out


def _arguments(cls) -> set[str]:
    names: set[str] = set()
    for base in cls.__mro__:
        if "__init__" in base.__dict__:
            parameters = inspect.signature(base.__init__).parameters.values()
            names |= {p.name for p in parameters}
            if base is keras.layers.Layer or not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    return names - {"self", "args", "kwargs"}


def policy_name(dtype) -> str | None:
    """`"float32"`, `"mixed_float16"`, ... of what Keras 2 writes: a name, or a policy with its configuration."""
    if isinstance(dtype, dict):
        dtype = dtype.get("config", {}).get("name")
    return dtype if isinstance(dtype, str) else None


def activation(function, notes: Notes):
    """A Keras 3 activation: by name, a layer rebuilt, or the one Keras 3 defines otherwise."""
    # TFMOT puts its quantizer around the activation that the user chose.
    while type(function).__name__ == "QuantizeAwareActivation":
        function = function.activation
    if type(function).__name__ == "NoOpActivation" or function is None:
        return "linear"
    if hasattr(function, "get_config") and hasattr(function, "weights"):
        return notes.build(function)
    name = function if isinstance(function, str) else getattr(function, "__name__", "")
    if name == "hard_sigmoid":
        return keras2_hard_sigmoid
    try:
        return keras.activations.get(name)
    except ValueError:
        pass
    custom = keras.saving.get_registered_object(name) or keras.saving.get_registered_object(f"Custom>{name}")
    if custom is None:
        raise ModelError(
            f"The activation {name or function!r} is none of Keras 3. Register a function of that name "
            "(keras.saving.register_keras_serializable) before loading."
        )
    return custom


def _part(key: str, value, name: str, notes: Notes):
    """A regularizer, constraint or initializer of Keras 3; None if it has none, which weights do not mind."""
    if value is None or callable(value):
        return None
    home = keras.regularizers if key.endswith("regularizer") else keras.constraints
    home = keras.initializers if key.endswith("_initializer") else home
    value = {k: v for k, v in value.items() if k in ("class_name", "config")} if isinstance(value, dict) else value
    try:
        return home.deserialize(value) if isinstance(value, dict) else home.get(value)
    except Exception:
        notes.add(name, f"dropped {key}, which Keras 3 does not have; weights and outputs stay")
        return "zeros" if key.endswith("_initializer") else None


@rule("LeakyReLU")
def _leaky_relu(layer, config, notes):
    config["negative_slope"] = float(config.pop("alpha"))
    return config


@rule("ReLU", "ELU", "Softmax", "Rescaling")
def _numbers(layer, config, notes):
    return {k: v.tolist() if isinstance(v, np.ndarray | np.generic) else v for k, v in config.items()}


@rule("BatchNormalization", "Softmax")
def _one_axis(layer, config, notes):
    axis = config["axis"]
    config["axis"] = int(axis[0]) if isinstance(axis, list | tuple) and len(axis) == 1 else axis
    return config


@rule("LayerNormalization")
def _axes(layer, config, notes):
    config["axis"] = [int(a) for a in np.ravel(config["axis"])]
    return config


@rule("DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D")
def _depthwise(layer, config, notes):
    if type(layer).__name__.startswith("Depthwise"):
        for key in ("filters", "kernel_initializer", "kernel_regularizer", "kernel_constraint"):
            config.pop(key, None)
        if "groups" in config:
            notes.add(config["name"], "dropped the argument 'groups' of Keras 2, which it never used")
    return config


@rule("GRU", "LSTM", "SimpleRNN", "GRUCell", "LSTMCell", "SimpleRNNCell", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
def _recurrent(layer, config, notes):
    if type(layer).__name__ == "CuDNNLSTM":
        raise ModelError(f"Layer {config['name']!r} is a CuDNNLSTM of Keras 1. Load it with tf_keras as an LSTM first.")
    config["activation"] = getattr(layer, "activation", config.get("activation"))
    return config


@rule("RNN")
def _rnn(layer, config, notes):
    config["cell"] = notes.build(layer.cell)
    return config


@rule("StackedRNNCells")
def _stacked(layer, config, notes):
    config["cells"] = [notes.build(cell) for cell in layer.cells]
    return config


@rule("TimeDistributed", "SpectralNormalization")
def _wrapper(layer, config, notes):
    config["layer"] = notes.build(layer.layer)
    return config


@rule("Bidirectional")
def _bidirectional(layer, config, notes):
    # Keras makes the backward layer itself and renames both, so the names below it are its own.
    config["layer"] = notes.build(layer.forward_layer)
    config["backward_layer"] = notes.build(layer.backward_layer)
    return config


@rule("Normalization")
def _normalization(layer, config, notes):
    # Files do not say whether `adapt` ran; before it these are the values.
    if layer.input_mean is None and not np.any(layer.mean) and np.all(np.equal(layer.variance, 1)):
        notes.add(config["name"], "was never adapted: mean 0 and variance 1")
    shape = keras2.normalized_shape(layer)
    config["mean"] = np.asarray(layer.mean).reshape(shape).tolist()
    config["variance"] = np.asarray(layer.variance).reshape(shape).tolist()
    return config


@rule("StringLookup", "IntegerLookup", "TextVectorization")
def _lookup(layer, config, notes):
    vocabulary = layer.get_vocabulary(include_special_tokens=False)
    config["vocabulary"] = [v.item() if hasattr(v, "item") else v for v in vocabulary]
    for key in ("vocabulary_size", "vocabulary_dtype", "has_input_vocabulary"):
        config.pop(key, None)
    return config


@rule("Resizing")
def _resizing(layer, config, notes):
    if type(layer).__name__ == "RandomCrop":
        # Keras 3 does not crop at inference, where Keras 2 cuts to the aspect ratio and resizes.
        notes.add(config["name"], "RandomCrop became the Resizing that it is at inference")
        config = {k: v for k, v in config.items() if k != "seed"} | {"crop_to_aspect_ratio": True}
    return config


@rule("Discretization")
def _discretization(layer, config, notes):
    config["bin_boundaries"] = np.asarray(layer.bin_boundaries).tolist()
    config["num_bins"] = None
    return config


@rule("Lambda")
def _lambda(layer, config, notes):
    notes.add(config["name"], "the Python function of the Lambda layer is called as it is")
    return {k: v for k, v in config.items() if k in ("name", "dtype", "trainable")} | {
        "function": layer.function,
        "arguments": layer.arguments,
    }


@rule("MultiHeadAttention")
def _attention(layer, config, notes):
    for key in ("query_shape", "key_shape", "value_shape"):
        config.pop(key, None)
    return config
