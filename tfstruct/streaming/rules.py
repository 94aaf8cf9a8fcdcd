"""How operations that look at more than one frame stream: one rule a function, registered by type.

A rule gets a `Place` and returns the new outputs. What no rule is for computes frame by frame, or looks at a window as
a whole: `framewise.py` tells.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import keras

from tfstruct.graph.call import Call
from tfstruct.graph.kinds import kind_of
from tfstruct.keras_internals.operation_types import operations
from tfstruct.streaming.flow import Flow, Frames, Once, Unstreamable

UNMASKED = "takes every frame that comes, as a stream has no padding: its mask is left out"
RESHAPES: tuple[type, ...] = (keras.layers.Reshape, *operations("Reshape"))  # they say the number of frames
Rule = Callable[["Place"], object]
_RULES: dict[type, Rule] = {}


@dataclasses.dataclass(frozen=True)
class Place:
    """A call that is made once more.

    Attributes:
        call: of the original graph, its shapes those of the whole-sequence model.
        flow: of the streaming model.
        run: calls the successor of the operation.
        args, kwargs: of the call, with the new tensors, without a mask.
        tensors: all of them, in the order of `call.inputs`.
    """

    call: Call
    flow: Flow
    run: Callable
    args: tuple
    kwargs: dict
    tensors: Sequence[keras.KerasTensor]

    @property
    def op(self):
        """The operation of the original."""
        return self.call.op

    def name_of_successor(self) -> str:
        """The name for a layer in its place: where it is not called twice, its own."""
        return self.flow.own_name()

    @property
    def frames(self) -> Frames:
        """What comes in.

        Raises:
            Unstreamable: several tensors, or other than frames.
        """
        found = self.flow.of(self.args[0]) if self.args else None
        if not isinstance(found, Frames):
            raise Unstreamable("it does not get its frames as its first argument")
        return found

    def length_of(self, x: Frames) -> int | None:
        """How many frames an argument has in the whole-sequence model; None where that is open."""
        number = next(i for i, tensor in enumerate(self.tensors) if tensor is x.tensor)
        return self.call.inputs[number].shape[x.axis]

    @property
    def length(self) -> int | None:
        """How many frames come in in the whole-sequence model; None where that is open."""
        return self.length_of(self.frames)

    def run_on(self, other: Mapping[int, keras.KerasTensor], run: Callable | None = None):
        """Calls the successor, or `run`, with other tensors, by the id of those that they take the place of."""
        args, kwargs = keras.tree.map_structure(lambda x: other.get(id(x), x), (self.args, self.kwargs))
        return (run or self.run)(*args, **kwargs)


def rule(*types: type):
    """Registers a rule for operations of these types, and of subclasses that compute as they do."""

    def register(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(types, function))
        return function

    return register


def rule_for(op: keras.Operation) -> Rule | None:
    """The rule of an operation."""
    kind = kind_of(op, _RULES)
    return None if kind is None else _RULES[kind]


def several(value, count: int) -> tuple[int, ...]:
    """A size for each axis, given once or one by one."""
    return tuple(value) if isinstance(value, list | tuple) else (value,) * count


def window_of(flow: Flow, x: Frames, length: int | None) -> Once:
    """The last window of as many frames as the whole-sequence model has there.

    Raises:
        Unstreamable: nothing says how long the window is.
    """
    if length is None:
        raise Unstreamable(
            "it looks at all frames together, and the model leaves their number open: give window=N, the frames of "
            "the longest input that it shall look at"
        )
    return Once(*flow.window(x, length))


def of_window(place: Place, x: Frames, run: Callable) -> object:
    """What is made of the whole window, anew in each call."""
    window = window_of(place.flow, x, place.length)
    return keras.tree.map_structure(lambda y: place.flow.add(dataclasses.replace(window, tensor=y)), run(window.tensor))
