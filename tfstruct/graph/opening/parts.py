"""What a graph of Keras's own layers lacks to say what a custom layer computes, each with its channel rule."""

import dataclasses

import keras
import numpy as np
from keras import ops

from tfstruct.graph.call import Axes, Call, Channels, Out
from tfstruct.graph.operation_traits import add_row, traits_of
from tfstruct.graph.rules import rule
from tfstruct.graph.rules.indexing import reshaped_at_the_end
from tfstruct.graph.traits import Traits
from tfstruct.keras_internals.recorded_calls import stored_dtype, takes_arguments_as_they_are

_PACKAGE = "tfstruct"


class _Part(keras.layers.Layer):
    """Takes its first tensor as it comes; masks end here."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        takes_arguments_as_they_are(self)
        self.supports_masking = True  # no warning; `compute_mask` says that there is none

    def compute_mask(self, *args, **kwargs):
        return None


@keras.saving.register_keras_serializable(_PACKAGE)
class Weight(_Part):
    """Owns a variable and returns it as a tensor, in the layer's compute dtype; its input only ties it to the graph.

    Args:
        shape: of the variable.
        weight_dtype: of the variable.
        weight_name: of the variable.
        weight_trainable: whether an optimizer changes it.
        regularizer, constraint: of the variable, as in `Layer.add_weight`.
    """

    def __init__(
        self,
        shape,
        weight_dtype="float32",
        weight_name="value",
        weight_trainable=True,
        regularizer=None,
        constraint=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.shape, self.weight_dtype = tuple(shape), weight_dtype
        self.weight_name, self.weight_trainable = weight_name, weight_trainable
        self.regularizer = keras.regularizers.get(regularizer)
        self.constraint = keras.constraints.get(constraint)
        self.value: keras.Variable | None = None

    @classmethod
    def holding(cls, variable: keras.Variable, name: str, policy) -> "Weight":
        """The layer that owns a variable that is there already."""
        made = cls(
            variable.shape,
            stored_dtype(variable),
            variable.name,
            bool(variable.trainable),
            variable.regularizer,
            variable.constraint,
            name=name,
            dtype=policy,
        )
        made.value = variable
        made.built = True
        return made

    def build(self, input_shape=None):
        if self.value is None:
            self.value = self.add_weight(
                shape=self.shape,
                dtype=self.weight_dtype,
                name=self.weight_name,
                trainable=self.weight_trainable,
                initializer="zeros",
                regularizer=self.regularizer,
                constraint=self.constraint,
            )
        self.built = True

    def call(self, anchor):
        return ops.cast(ops.convert_to_tensor(self.value), self._dtype_of_value())

    def compute_output_spec(self, anchor):
        return keras.KerasTensor(self.shape, self._dtype_of_value())

    def _dtype_of_value(self) -> str:
        return self.compute_dtype if "float" in self.weight_dtype else self.weight_dtype

    def get_config(self):
        return {
            **super().get_config(),
            "shape": self.shape,
            "weight_dtype": self.weight_dtype,
            "weight_name": self.weight_name,
            "weight_trainable": self.weight_trainable,
            "regularizer": keras.regularizers.serialize(self.regularizer),
            "constraint": keras.constraints.serialize(self.constraint),
        }


@rule(Weight)
def weight(call: Call) -> Axes:
    """Every axis of a weight has channels of its own, but one of size 1, which is there to be broadcast; what reads
    the weight ties them to others."""
    sizes = call.op.shape
    made = tuple(call.fresh(n, f"axis{i}" if len(sizes) > 1 else "") if n != 1 else None for i, n in enumerate(sizes))
    call.weight(call.op.value, *(Out(labels) for labels in made))
    call.set("shape", lambda kept: tuple(1 if labels is None else len(kept(labels)) for labels in made))
    call.macs(0)
    return made


@keras.saving.register_keras_serializable(_PACKAGE)
class Constant(_Part):
    """Returns an array that a custom layer computed with; its input only ties it to the graph."""

    def __init__(self, value, value_dtype, **kwargs):
        super().__init__(**kwargs)
        self.value_dtype = value_dtype
        self.array = np.asarray(value, value_dtype)

    def call(self, anchor):
        return ops.convert_to_tensor(self.array)

    def compute_output_spec(self, anchor):
        return keras.KerasTensor(self.array.shape, self.value_dtype)

    def get_config(self):
        return {**super().get_config(), "value": self.array.tolist(), "value_dtype": self.value_dtype}


@rule(Constant)
def constant(call: Call) -> Axes:
    """A constant has no channels that could go."""
    call.macs(0)
    return call.untouched()[0]


@keras.saving.register_keras_serializable(_PACKAGE)
class Sized(_Part):
    """`reshape`, `broadcast_to`, `tile` or `slice` (from 0) to sizes, of which some are read off other tensors.

    Args:
        kind: the operation's name.
        sizes: by axis a number, or `[tensor, axis]`: the size of that axis of the layer's 2nd, 3rd, ... input.
    """

    def __init__(self, kind, sizes, **kwargs):
        super().__init__(**kwargs)
        self.kind = kind
        self.sizes = [size if isinstance(size, int) else list(size) for size in sizes]

    def call(self, x, *likes):
        sizes = [size if isinstance(size, int) else ops.shape(likes[size[0]])[size[1]] for size in self.sizes]
        if self.kind == "slice":
            return ops.slice(x, [0] * len(sizes), sizes)
        return getattr(ops, self.kind)(x, sizes)

    def compute_output_spec(self, x, *likes):
        sizes = [size if isinstance(size, int) else likes[size[0]].shape[size[1]] for size in self.sizes]
        if self.kind == "tile":
            own = (1,) * (len(sizes) - len(x.shape)) + tuple(x.shape)
            sizes = [None if n is None or m is None else n * m for n, m in zip(sizes, own, strict=True)]
        return keras.KerasTensor([None if n == -1 else n for n in sizes], x.dtype)

    def get_config(self):
        return {**super().get_config(), "kind": self.kind, "sizes": self.sizes}


@rule(Sized)
def sized(call: Call) -> Axes:
    """Channels pass along axes that keep their size, and in the ends of both shapes that hold the same data; what is
    repeated, cut or reshaped otherwise stays whole."""
    own = list(call.op.sizes)

    def set_sizes(axes: Axes) -> None:
        call.set("sizes", lambda kept: [n if x is None else len(kept(x)) for n, x in zip(own, axes, strict=True)])

    call.macs(0)
    if call.op.kind == "reshape":
        axes = reshaped_at_the_end(call, "reshapes it to sizes that it reads off other tensors")
        set_sizes(axes)
        return axes
    missing = len(call.shapes[0]) - call.input.rank
    axes = (None,) * missing + tuple(call.input.axes)
    sizes = (1,) * missing + tuple(call.input.shape)
    out = []
    for labels, before, after in zip(axes, sizes, call.shapes[0], strict=True):
        if labels is not None and before != after:
            call.freeze(labels, f"{call.path} repeats or cuts it")
            labels = None
        out.append(labels)
    if call.op.kind != "tile":
        set_sizes(tuple(out))
    return tuple(out)


@keras.saving.register_keras_serializable(_PACKAGE)
class Masked(_Part):
    """Takes `[x, mask]` and returns x with that Keras mask."""

    def call(self, inputs):
        return ops.copy(inputs[0])  # x itself may carry another mask

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs[0].shape, inputs[0].dtype)

    def compute_mask(self, inputs, previous_mask=None):
        return inputs[1]


@rule(Masked)
def masked(call: Call) -> Axes:
    """Channels pass; a mask has none."""
    call.in_place = True
    call.macs(0)
    return call.input.axes


@keras.saving.register_keras_serializable(_PACKAGE)
class AddedLoss(_Part):
    """Takes x and losses, adds these to those of the model, and returns x.

    Args:
        training_only: whether it adds them in training only.
    """

    def __init__(self, training_only=False, **kwargs):
        super().__init__(**kwargs)
        self.training_only = training_only

    def call(self, x, *losses, training=None):
        if training or not self.training_only:
            for loss in losses:
                self.add_loss(loss)
        return x

    def compute_output_spec(self, x, *losses, training=None):
        return keras.KerasTensor(x.shape, x.dtype)

    def get_config(self):
        return {**super().get_config(), "training_only": self.training_only}


@rule(AddedLoss)
def added_loss(call: Call) -> Axes:
    """Channels pass; losses have none."""
    call.in_place = True
    call.macs(0)
    return call.inputs[0].axes


def values_read(call: Call) -> tuple[Channels, ...]:
    """The inputs of a call whose values it reads: not those that only tie a weight to the graph, or give sizes, or are
    losses."""
    if traits_of(call.op).reads_shape:
        return ()
    return tuple(call.inputs[:1] if isinstance(call.op, (Sized, AddedLoss)) else call.inputs)


def _as_sized(op: Sized, base: Traits) -> Traits:
    return dataclasses.replace(base, moves="view") if op.kind == "reshape" else base


add_row([Weight, Constant], Traits(reads_shape=True))
add_row([Sized], Traits(moves="selection", keeps_zero=True, homogeneous=True), _as_sized)
add_row([Masked, AddedLoss], Traits(moves="identity", keeps_zero=True, homogeneous=True))
