"""A call made once more, on the frames that come: by its rule, frame by frame, or on the last window."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import keras
from keras import layers

from tfstruct.graph import in_order
from tfstruct.graph.call import Call
from tfstruct.graph.operation_traits import traits_of
from tfstruct.patterns import matches
from tfstruct.streaming import convolutions, recurrent, windows  # noqa: F401  (their rules are registered)
from tfstruct.streaming.flow import Flow, Flowing, Frames, Once, Unstreamable, refused
from tfstruct.streaming.framewise import Framewise, framewise
from tfstruct.streaming.rules import RESHAPES, UNMASKED, Place, rule_for, window_of

WHOLE = "is computed anew in each call, for the whole window"
# (id of a call, time axes of its inputs) -> how its outputs follow the frames, or why they do not; and what is called
# in its place, by the number of frames. It holds however often the model is made.
Known = dict[tuple[int, tuple], Any]


class Calls:
    """Makes the calls of a streaming model.

    Args:
        flow: what is known of its tensors.
        anew: patterns of layers that look at the last window.
        known: what was found out about calls when the model was made before.
    """

    def __init__(self, flow: Flow, anew: Sequence[str], known: Known):
        self._flow, self._anew, self._known = flow, anew, known
        self.found: set[str] = set()  # patterns that name a layer
        self.anew: set[int] = set()  # ids of the calls that they name
        self.made: dict[int, list[Flowing]] = {}  # by id of a call, what became of its outputs

    def __call__(self, call: Call, run: Callable, *args, **kwargs):
        """The edit of every operation; see `graph.Replay`."""
        outputs = self._made(call, run, args, kwargs)
        self.made[id(call)] = [self._flow.of(y) for y in keras.tree.flatten(outputs)]
        return outputs

    def _made(self, call: Call, run: Callable, args, kwargs):
        flow = self._flow
        tensors = in_order(args, kwargs)
        given = {id(x): found for x in tensors if (found := flow.of(x)) is not None}
        if not given:
            return run(*args, **kwargs)
        flow.place = call.path.replace("/", "_")
        named = [pattern for pattern in self._anew if matches(pattern, call.path)]
        self.found.update(named)
        if named:
            self.anew.add(id(call))
        if kwargs.get("mask") is not None:
            kwargs = {**kwargs, "mask": None}
            flow.note(UNMASKED, call.path)
        place = Place(call, flow, run, args, kwargs, tensors)
        frames = [x for x in given.values() if isinstance(x, Frames)]
        try:
            if len(frames) < len(given) or named:
                if frames:
                    flow.note(WHOLE, call.path)
                return self._on_window(place, list(given.values()))
            rule = rule_for(call.op)
            made = NotImplemented if rule is None else rule(place)
            return self._frame_by_frame(place, frames) if made is NotImplemented else made
        except Unstreamable as error:
            raise refused(call.path, str(error)) from None

    def _on_window(self, place: Place, given: Sequence[Frames | Once]):
        """Frames that meet what was made of a window are held as a window too."""
        flow, once = self._flow, []
        for x in given:
            once.append(window_of(flow, x, place.length_of(x)) if isinstance(x, Frames) else x)
        alike = flow.same_call(once)
        outputs = place.run_on({id(x.tensor): y.tensor for x, y in zip(given, alike, strict=True)})
        return keras.tree.map_structure(lambda y: flow.add(Once(y, alike[0].delay, alike[0].first)), outputs)

    def _frame_by_frame(self, place: Place, frames: Sequence[Frames]):
        flow = self._flow
        found, by_frames = self._how(place)
        parts = [one for one in found if one is not None]
        if not parts:
            x = frames[0]
            if len(frames) == 1 and place.length_of(x) is None and traits_of(place.op).reduces == "mean":
                return windows.cumulative_mean(place, flow.settled(x), lambda y: place.run_on({id(x.tensor): y}))
            return self._on_window(place, frames)
        if len(parts) < len(found):
            raise Unstreamable("some of its outputs have a time axis, and others have not")
        alike = flow.together(frames)
        for one in parts:
            alike = [flow.multiple(x, one.rate.denominator) for x in alike]
        chunk, lag = alike[0].chunk, alike[0].lag
        chunks = [flow.chunk_of(chunk, one.rate) for one in parts]
        run = None if by_frames is None else by_frames(chunk, flow.own_name())
        outputs = place.run_on({id(x.tensor): y.tensor for x, y in zip(frames, alike, strict=True)}, run)
        for y, one, count in zip(keras.tree.flatten(outputs), parts, chunks, strict=True):
            if flow.of(y) is None:  # else it hands on what it gets
                flow.frames_of(y, one.axis, count, int(lag * one.rate))
        return outputs

    def _how(self, place: Place) -> tuple[list[Framewise | None], Callable | None]:
        axes = tuple(x.axis if isinstance(x, Frames) else None for x in map(self._flow.of, place.tensors))
        key = id(place.call), axes
        if key not in self._known:
            try:
                self._known[key] = _followed(place.call, axes)
            except Unstreamable as error:
                self._known[key] = error
        found = self._known[key]
        if isinstance(found, Unstreamable):
            raise found
        return found


def _followed(call: Call, axes: tuple[int | None, ...]) -> tuple[list[Framewise | None], Callable | None]:
    """How the outputs of a call follow its frames, and what takes its place."""
    if isinstance(call.op, RESHAPES):
        return _reshaped(call, axes)
    try:
        return framewise(call, axes), None
    except Exception as error:  # whatever an operation raises on another number of frames
        said = str(error).strip().splitlines()
        raise Unstreamable(
            "its output at one frame depends on others, or on how many there are"
            + (f" ({said[0][:200]})" if said and not isinstance(error, Unstreamable | ValueError) else "")
            + f"; let it look at the last window anew in each call, windows=[{call.path!r}]"
        ) from error


def _reshaped(call: Call, axes: tuple[int | None, ...]):
    """A reshape says the number of frames: which of its sizes that is, tried one by one. None is left where it makes
    one thing of the window."""
    new = call.shapes[0]
    frames = next(x.shape[axis] for x, axis in zip(call.inputs, axes, strict=True) if axis is not None)
    for place, size in enumerate(new[1:]):
        rates = [Fraction(size, frames)] if frames and size else [Fraction(1)] if size is None else []
        for rate in rates:

            def by_frames(count: int, name: str | None = None, place=place, rate=rate):
                shape = [*new[1 : place + 1], int(count * rate), *new[place + 2 :]]
                return layers.Reshape(tuple(shape), name=name)

            try:
                found = framewise(call, axes, by_frames)
            except Exception:  # not this one
                continue
            if found[0] is not None and found[0].rate == rate:
                return found, by_frames
    return [None], None
