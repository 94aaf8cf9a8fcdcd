"""Recurrent layers and the wrappers around them: a unit goes with its column in every gate, and with its state."""

from collections.abc import Callable

import keras
import numpy as np
from keras import layers

from tfstruct.graph.call import Axes, Call, Channels, Each, In, Out
from tfstruct.graph.kinds import kind_of
from tfstruct.graph.operation_traits import function_traits
from tfstruct.graph.rules.contractions import channel_axis
from tfstruct.graph.rules.elementwise import activation
from tfstruct.graph.rules.registry import rule, rule_of

_GATES = {layers.LSTMCell: 4, layers.GRUCell: 3, layers.SimpleRNNCell: 1}
_STATES = {layers.LSTMCell: 2, layers.GRUCell: 1, layers.SimpleRNNCell: 1}
_CELLS: dict[type, Callable[[Call], list[Axes]]] = {}
_LAYERS = (layers.LSTM, layers.GRU, layers.SimpleRNN)
_CONV_LAYERS = (layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D)


def _cell_kind(cell) -> type | None:
    """The built-in kind of a cell that computes as that kind does."""
    return kind_of(cell, _GATES)


def cell_rule(kind: type):
    """Registers a rule for `RNN` layers around cells of a type."""

    def register(function):
        _CELLS[kind] = function
        return function

    return register


def knows_cell(cell) -> bool:
    """Whether a rule knows `RNN` layers around the cell."""
    if type(cell) is layers.StackedRNNCells:
        return all(_cell_kind(one) is not None for one in cell.cells)
    return type(cell) in _CELLS or _cell_kind(cell) is not None


def _functions(call: Call, cell, made: np.ndarray) -> None:
    for function in (cell.activation, getattr(cell, "recurrent_activation", None)):
        if function_traits(function).statistics:
            call.freeze(made, f"{call.path} has an activation over all units")
        elif function is not None:
            activation(call, function, made)


def _cell(call: Call, cell, came: np.ndarray | None, made: np.ndarray) -> None:
    """The weights of a cell, and what a step costs, for all time steps."""
    gates, width = _GATES[_cell_kind(cell)], cell.kernel.shape[0]
    wide = np.tile(made, gates)
    call.weight(cell.kernel, In(came), Out(wide))
    call.weight(cell.recurrent_kernel, In(made), Out(wide))
    if cell.bias is not None:
        call.weight(cell.bias, *(None,) * (len(cell.bias.shape) - 1), Out(wide))
    _functions(call, cell, made)
    steps = call.input.shape[1]
    factor = None if steps is None else steps * gates
    call.macs(factor if came is not None or factor is None else factor * width, came, made)
    call.macs(factor, made, made)


def _unbuilt(call: Call, *place: str | int) -> None:
    """A layer inside another is made from its configuration, which also says for what shape it was built."""
    call.set("build_config", lambda kept: None, within=place)


def hold_time(call: Call, also: tuple[int, ...] = ()) -> None:
    """Steps have to stay."""
    for axis in (0, 1, *also):
        call.freeze(call.input.axes[axis], f"{call.path} runs along it")


def join_states(call: Call, layer, states: list[np.ndarray], given: list, axis: int = -1) -> None:
    """States that come in, and those that a stateful layer holds, go with the units."""
    for mask in (call.argument("mask"),):
        for labels in mask.axes if isinstance(mask, Channels) else ():
            call.freeze(labels, f"{call.path} takes it as a mask")
    if given and len(given) != len(states):
        for labels in states:
            call.freeze(labels, f"{call.path} is given another number of states than it has")
        given = []
    for labels, state in zip(states, given, strict=False):
        if isinstance(state, Channels):
            call.unite(labels, state.axes[axis])
            for other in (*state.axes[:axis], *state.axes[axis:][1:]):
                call.freeze(other, f"{call.path} takes it as a state")
        elif state is not None:
            call.freeze(labels, f"{call.path} starts from a constant state")
    held = keras.tree.flatten(layer.states) if getattr(layer, "states", None) is not None else []
    for labels, state in zip(states, held, strict=False):
        rank = len(state.shape)
        call.weight(state, *(Each(labels) if i == axis % rank else None for i in range(rank)))


def given_states(call: Call) -> list:
    """The initial states that the call is given, in a row."""
    state = call.argument("initial_state")
    return [] if state is None else [x for x in _flatten(state)]


def _flatten(state) -> list:
    return [x for part in state for x in _flatten(part)] if isinstance(state, (list, tuple)) else [state]


def _outputs(call: Call, layer, made: np.ndarray, states: list[np.ndarray]) -> list[Axes]:
    first = (None, None, made) if layer.return_sequences else (None, made)
    return [first, *((None, labels) for labels in states)] if layer.return_state else [first]


def _simple(call: Call, layer, what: str = "") -> tuple[np.ndarray, list[np.ndarray]]:
    """An LSTM, GRU or SimpleRNN: its units, and those of its states."""
    made = call.fresh(layer.units, what)
    _cell(call, layer.cell, call.input.axes[-1], made)
    return made, [made] * _STATES[_cell_kind(layer.cell)]


@rule(*_LAYERS)
def recurrent(call: Call) -> list[Axes]:
    hold_time(call)
    made, states = _simple(call, call.op)
    call.set("units", made)
    join_states(call, call.op, states, given_states(call))
    return _outputs(call, call.op, made, states)


@rule(layers.RNN)
def rnn(call: Call) -> list[Axes]:
    """A layer around one cell or a stack of them."""
    layer = call.op
    if type(layer.cell) in _CELLS:
        return _CELLS[type(layer.cell)](call)
    stacked = isinstance(layer.cell, layers.StackedRNNCells) and type(layer.cell) is layers.StackedRNNCells
    cells = layer.cell.cells if stacked else [layer.cell]
    if any(_cell_kind(cell) is None for cell in cells):
        names = ", ".join(sorted({type(cell).__name__ for cell in cells}))
        call.freeze_inputs(f"no rule knows the cells of {call.path} ({names})")
        return call.untouched()
    if layer.return_state and len(call.shapes) - 1 != sum(_STATES[_cell_kind(cell)] for cell in cells):
        call.freeze_inputs(f"{call.path} returns its states in a way that no rule knows")
        return call.untouched()
    hold_time(call)
    _unbuilt(call, "cell")
    came = call.input.axes[-1]
    states: list[np.ndarray] = []
    for n, cell in enumerate(cells):
        made = call.fresh(cell.units, f"cell{n}" if len(cells) > 1 else "")
        _cell(call, cell, came, made)
        place: tuple[str | int, ...] = ("cell", "config", "cells", n) if stacked else ("cell",)
        call.set("units", made, within=(*place, "config"))
        _unbuilt(call, *place)
        states += [made] * _STATES[_cell_kind(cell)]
        came = made
    join_states(call, layer, states, given_states(call))
    return _outputs(call, layer, made, states)


@rule(*_CONV_LAYERS)
def conv_lstm(call: Call) -> list[Axes]:
    layer, cell = call.op, call.op.cell
    axis = channel_axis(cell, call.input.rank - 1)  # without time
    came, width, steps = call.input.axes[axis + 1], cell.kernel.shape[-2], call.input.shape[1]
    hold_time(call, tuple(i for i in range(2, call.input.rank) if i != axis + 1))
    made = call.fresh(cell.filters)
    wide = np.tile(made, 4)
    taps = (None,) * cell.rank
    call.weight(cell.kernel, *taps, In(came), Out(wide))
    call.weight(cell.recurrent_kernel, *taps, In(made), Out(wide))
    call.weight(cell.bias, Out(wide))
    call.set("filters", made)
    _functions(call, cell, made)
    join_states(call, layer, [made, made], given_states(call), axis=axis)
    one = tuple(made if i == axis else None for i in range(call.input.rank - 1))
    spatial = [n for i, n in enumerate(call.shapes[0][2 if layer.return_sequences else 1 :], 1) if i != axis]
    factor = None
    if steps is not None and None not in spatial:
        factor = float(4 * steps * np.prod(spatial) * np.prod(cell.kernel_size))
    call.macs(factor if came is not None or factor is None else factor * width, came, made)
    call.macs(factor, made, made)
    first = (None, *one) if layer.return_sequences else one
    return [first, one, one] if layer.return_state else [first]


@rule(layers.Bidirectional)
def bidirectional(call: Call) -> list[Axes]:
    """Two layers side by side; a merge element by element ties their units together.

    Otherwise equally many stay in both, as Keras takes the shape of the second for that of the first.
    """
    wrapper = call.op
    pair = (wrapper.forward_layer, wrapper.backward_layer)
    if any(kind_of(layer, _LAYERS) is None for layer in pair):
        call.freeze_inputs(f"no rule knows the layers inside {call.path} ({type(pair[0]).__name__})")
        return call.untouched()
    counts = [_STATES[_cell_kind(layer.cell)] for layer in pair]
    if pair[0].units != pair[1].units or (wrapper.return_state and counts[0] != counts[1]):
        call.freeze_inputs(f"{call.path} has two layers of different shapes, of which Keras knows only one")
        return call.untouched()
    hold_time(call)
    given = given_states(call)
    half = len(given) // 2
    made: list[np.ndarray] = []
    states: list[np.ndarray] = []
    for name, layer, part in zip(("layer", "backward_layer"), pair, (given[:half], given[half:]), strict=True):
        units, own = _simple(call, layer, "forward" if name == "layer" else "backward")
        call.set("units", units, within=(name, "config"))
        _unbuilt(call, name)
        join_states(call, layer, own, part)
        made.append(units)
        states += own
    if wrapper.merge_mode in ("concat", None):
        call.blocks(np.concatenate(made), 2)
    before = (None, None) if wrapper.return_sequences else (None,)
    if wrapper.merge_mode is None:
        outputs = [(*before, units) for units in made]
    elif wrapper.merge_mode == "concat":
        outputs = [(*before, np.concatenate(made))]
    else:
        outputs = [(*before, call.unite(*made))]
    return outputs + ([(None, labels) for labels in states] if wrapper.return_state else [])


@rule(layers.TimeDistributed)
def time_distributed(call: Call) -> Axes | list[Axes]:
    """The rule of the layer inside, on one time step."""
    inner = call.op.layer
    found = None if isinstance(inner, keras.Model) else rule_of(inner)
    if found is None or len(call.inputs) != 1 or len(call.shapes) != 1:
        what = "a model" if isinstance(inner, keras.Model) else f"{type(inner).__name__}, which no rule knows"
        call.freeze_inputs(f"{call.path} holds {what}")
        return call.untouched()
    came, shape = call.input, call.shapes[0]
    call.freeze(came.axes[1], f"{call.path} runs along it")
    step = Channels((came.shape[0], *came.shape[2:]), (came.axes[0], *came.axes[2:]), came.key, came.per_sample)
    within = call.inside("layer", inner, [step], [(shape[0], *shape[2:])])
    _unbuilt(call, "layer")
    costs = len(call.costs)
    made = found(within)
    made = made[0] if isinstance(made, list) else made
    if within.argument_edits or within.rewrite is not None:
        call.freeze_inputs(f"{call.path} holds {type(inner).__name__}, whose call would have to change")
        return call.untouched()
    times = float("nan") if shape[1] is None else shape[1]
    call.costs[costs:] = [(factor * times, labels) for factor, labels in call.costs[costs:]]
    call.in_place = within.in_place
    return (made[0], None, *made[1:])
