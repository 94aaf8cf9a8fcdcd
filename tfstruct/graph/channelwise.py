"""Finds the linear layers before and after a tensor through channel-wise operations, to move a per-channel affine map
into them."""

from collections.abc import Callable, Iterator

import numpy as np
from keras import layers

from tfstruct.graph.call import Call
from tfstruct.graph.contraction import plain
from tfstruct.graph.linear_layers import Affine, is_linear
from tfstruct.graph.operation_traits import traits_of
from tfstruct.graph.wiring import Unfit, Wiring


def maker(wiring: Wiring, norm: Call, affine: Affine, axis: int) -> tuple[Call, int]:
    """The layer whose output arrives at a batch normalization, and nowhere else; the axis that is normalized there."""
    call = norm
    while True:
        made = wiring.maker.get(call.input.key)
        if made is None:
            raise Unfit("it reads an input of the model")
        linear = is_linear(made)
        if not linear and not _commutes(made, affine):
            raise Unfit(f"it reads {described(made)}")
        wiring.reader(made)
        if linear:
            return made, axis
        axis = _axis_before(made, axis)
        call = made


def ends(
    wiring: Wiring, call: Call, affine: Affine, axis: int, passes: Callable[[Call], bool] = lambda call: False
) -> Iterator[tuple[Call, Affine, int]]:
    """The linear layers that read what a call makes, with an affine map of it, and its axis, as they meet it.

    Args:
        passes: which further layers the map goes through as it is; Unfit from it tells why one does not.
    """
    (tensor,) = call.outputs
    if tensor.key in wiring.outputs:
        raise Unfit(f"the output of `{call.path}` is an output of the model")
    for reader in wiring.readers.get(tensor.key, []):
        if is_linear(reader):
            yield reader, affine, axis
        elif plain(reader, layers.Flatten):
            yield from ends(wiring, reader, _flattened(reader, affine, axis), 1, passes)
        elif _commutes(reader, affine):
            yield from ends(wiring, reader, affine, _axis_behind(reader, axis), passes)
        elif passes(reader):
            yield from ends(wiring, reader, affine, axis, passes)
        else:
            raise Unfit(f"{described(reader)} reads `{call.path}`")


def _hands_on(call: Call) -> bool:
    # What is idle goes by `remove_redundant`.
    traits = traits_of(call.op)
    return isinstance(call.op, layers.Layer) and traits.moves == "identity" and not traits.idle


def _commutes(call: Call, affine: Affine) -> bool:
    """Whether the layer gives the same before and after an affine map of its channels."""
    traits = traits_of(call.op)
    if _hands_on(call):
        return not call.argument("training")
    if not traits.by_channel or not (traits.stays_within or traits.pads or traits.interpolates):
        return False
    if traits.reduces in ("max", "min"):
        return bool((affine.scale >= 0).all())
    return not traits.pads or not affine.shifts


def _axis_behind(call: Call, axis: int) -> int:
    if _hands_on(call):
        return axis
    if axis != _channels(call):
        raise Unfit(f"{described(call)} reaches over the axis of the channels")
    # Global pooling leaves the batch and the channels.
    return axis if len(call.shapes[0]) == call.input.rank else 1


def _axis_before(call: Call, axis: int) -> int:
    if _hands_on(call):
        return axis
    if axis != _axis_behind(call, _channels(call)):
        raise Unfit(f"{described(call)} reaches over the axis of the channels")
    return _channels(call)


def _channels(call: Call) -> int:
    first = getattr(call.op, "data_format", None) == "channels_first"
    return 1 if first else call.input.rank - 1


def _flattened(call: Call, affine: Affine, axis: int) -> Affine:
    shape = [n for n in call.input.shape[1:] if n is not None]
    if len(shape) < call.input.rank - 1 or call.op.data_format == "channels_first":
        raise Unfit(f"`{call.path}` flattens a shape that is open, or in another order")
    spread = [-1 if i == axis - 1 else 1 for i in range(len(shape))]
    return Affine(*(np.broadcast_to(x.reshape(spread), shape).ravel() for x in (affine.scale, affine.shift)))


def described(call: Call) -> str:
    return f"`{call.path}` ({type(call.op).__name__})"
