"""What looks at all frames together: at a window of them, which a state holds, or at all that have come."""

from collections.abc import Callable

from keras import layers, ops

from tfstruct.graph.operation_traits import classes_that, traits_of
from tfstruct.keras_internals.operation_types import operations
from tfstruct.streaming.convolutions import features_pooled
from tfstruct.streaming.flow import Frames, Once, Unstreamable
from tfstruct.streaming.rules import UNMASKED, Place, of_window, rule

CUMULATES = "is the mean of all frames since the start, by a count that has no scale in integers"


@rule(*classes_that(lambda traits: traits.over == "positions"))
def global_pooling(place: Place) -> object:
    """Of features first, so that less is held."""
    x, op = place.flow.settled(place.frames), place.op
    if op.data_format != "channels_last" or x.axis > len(x.tensor.shape) - 2:
        raise Unstreamable("its channels stand first; expected data_format='channels_last'")
    kind = traits_of(op).reduces
    if place.length is None and kind == "mean":
        return cumulative_mean(place, x, place.run)
    sizes = [1 if i + 1 == x.axis else n for i, n in enumerate(x.tensor.shape[1:-1])]
    if any(n != 1 for n in sizes):
        x = features_pooled(place, x, kind, sizes, [1] * len(sizes), "valid")
    return of_window(place, x, place.run)


def cumulative_mean(place: Place, x: Frames, run: Callable) -> object:
    """m' = m + (mean of the new frames - m) / n, with n calls so far."""
    flow = place.flow
    flow.note(CUMULATES, place.call.path)
    x = flow.multiple(x, x.chunk)
    new = run(x.tensor)
    names = [flow.state(shape, new.dtype, what) for shape, what in ((new.shape[1:], "mean"), ((1,), "count"))]
    (mean_name, mean), (count_name, count) = names
    started = flow.started_at_all(x)
    if started is None:
        started = ops.ones_like(count)
    after = count + started
    share = ops.reshape(started / ops.maximum(after, 1.0), (-1, *[1] * (len(new.shape) - 1)))
    made = mean + (new - mean) * share
    flow.keep(mean_name, mean, made, "the mean of all frames so far")
    flow.keep(count_name, count, after, "how many calls there were")
    _, delay, first = flow.last(x)
    return flow.add(Once(made, delay, first))


@rule(layers.Flatten)
def flatten(place: Place) -> object:
    """Of the window."""
    return of_window(place, place.flow.settled(place.frames), place.run)


@rule(*operations("GetItem"))
def indexing(place: Place) -> object:
    """`x[:, -1]`: the newest frame. Other places are places of a window."""
    x = place.frames
    key = place.args[1] if len(place.args) > 1 else place.kwargs.get("key")
    key = list(key) if isinstance(key, tuple) else [key]
    plain = all(isinstance(one, int | slice) for one in key) and len(key) > x.axis and key[0] == slice(None)
    if not plain:
        return NotImplemented
    if key[x.axis] == slice(None):
        return NotImplemented
    if key[x.axis] != -1:
        return of_window(place, place.flow.settled(x), lambda y: y[tuple(key)])
    newest, delay, first = place.flow.last(x)
    rest = key[: x.axis] + key[x.axis + 1 :]
    return place.flow.add(
        Once(newest if all(one == slice(None) for one in rest) else newest[tuple(rest)], delay, first)
    )


@rule(*(kind for name, kind in vars(layers).items() if name.endswith("Attention")))
def attention(place: Place) -> object:
    """Each frame looks at all others."""
    raise Unstreamable(
        "each frame attends to all others of the sequence, those that come later too: let it look at the last window "
        f"anew in each call, windows=[{place.call.path!r}]"
    )


@rule(layers.Masking)
def masking(place: Place) -> object:
    """There is no padding in a stream."""
    x = place.frames
    place.flow.note(UNMASKED, place.call.path)
    made = layers.Identity(name=place.name_of_successor(), dtype=x.tensor.dtype)(x.tensor)
    return place.flow.add(Frames(made, x.axis, x.chunk, x.lag, x.clean))


@rule(layers.Embedding)
def embedding(place: Place) -> object:
    """Without its mask."""
    if place.op.mask_zero:
        place.call.set("mask_zero", lambda kept: False)
    return NotImplemented
