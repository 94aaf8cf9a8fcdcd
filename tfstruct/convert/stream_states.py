"""States of a streaming file: one scale for what goes in and comes out, so that bytes are copied; its plan."""

import json
from collections.abc import Collection, Mapping, Sequence

from tfstruct.convert import file_notes, flatbuffer
from tfstruct.convert.ports import ports_of
from tfstruct.errors import ConversionError
from tfstruct.streaming import StreamPlan
from tfstruct.streaming.plan import StreamState
from tfstruct.tflite_operators import traits_of
from tfstruct.untrusted import json_text

_NOTE = "tfstruct.streaming"
# Of kernels that fix their scale in 8 bits: in 16 bits it is 1/32768, symmetric.
_WIDE_ENDS = (-32767 / 32768, 32767 / 32768)
Ranges = Mapping[str, tuple[float, float]]


def tied(
    content: bytes, ranges: Ranges, states: Sequence[StreamState], wide: Collection[str] = ()
) -> dict[str, tuple[float, float]]:
    """Ranges with one for each state: for its input, its output, and all that only moves values to it.

    Args:
        content: the float file.
        ranges: (low, high) by tensor name.
        wide: tensors that have 16 bits.
    """
    model = flatbuffer.read(content)
    graph = model.subgraphs[0]
    maker = {int(i): op for op in graph.operators for i in op.outputs}
    inputs, outputs = ({port.name: port.index for port in side} for side in ports_of(content))
    groups: dict[int, set[int]] = {}
    for state in states:
        group = {inputs[state.input]} | _moved(model, maker, outputs[state.output])
        for other in [groups[i] for i in group if i in groups]:
            group |= other
        groups.update(dict.fromkeys(group, group))
    made = dict(ranges)
    for group in {id(group): group for group in groups.values()}.values():
        names = [graph.tensors[i].name.decode() for i in group]
        known = [made[name] for name in names if name in made]
        fixed = []
        for i in group & set(maker):
            ends = traits_of(flatbuffer.operator_name(model, maker[i])).output_range
            if ends is not None:
                fixed.append(_WIDE_ENDS if graph.tensors[i].name.decode() in wide else ends)
        if not known:
            continue
        ends = min(low for low, _ in known), max(high for _, high in known)
        # A kernel that fixes its scale decides for all, as they hold its values.
        made.update(dict.fromkeys(names, fixed[0] if len(set(fixed)) == 1 else ends))
    return made


def _moved(model, maker, index: int) -> set[int]:
    """A tensor, and those whose values it holds by operators that leave their scale."""
    graph, found, waiting = model.subgraphs[0], set(), [index]
    while waiting:
        i = waiting.pop()
        if i in found or i < 0 or flatbuffer.is_constant(model, graph.tensors[i]):
            continue
        found.add(i)
        op = maker.get(i)
        if op is not None and traits_of(flatbuffer.operator_name(model, op)).same_scale:
            floats = (int(j) for j in op.inputs if flatbuffer.dtype_name(graph.tensors[int(j)]) == "float32")
            waiting += floats
    return found


def check(content: bytes, plan: StreamPlan) -> None:
    """Raises ConversionError where a state would have to be rescaled between calls."""
    inputs, outputs = ({port.name: port for port in side} for side in ports_of(content))
    for state in plan.states:
        before, after = inputs[state.input], outputs[state.output]
        if (before.dtype, before.scale, before.zero_point) != (after.dtype, after.scale, after.zero_point):
            raise ConversionError(
                f"The state {state.input!r} goes in as {before.to_stored} ({before.dtype}) and comes out as "
                f"{after.to_stored} ({after.dtype}), so that its bytes cannot be copied. Convert with float_io=True "
                "(--float-io), which gives states as floats, or keep the layer in float32 "
                "(Recipe(layers={pattern: 'float32'}), --keep-float)."
            )


def state_bytes(content: bytes, plan: StreamPlan) -> int:
    """Bytes of the states of one stream in the file."""
    types = {port.name: port.dtype.itemsize for port in ports_of(content)[0]}
    return sum(state.size * types[state.input] for state in plan.states)


def with_plan(content: bytes, plan: StreamPlan) -> bytes:
    """The file with a note of how it is run."""
    model = flatbuffer.read(content)
    file_notes.write_note(model, _NOTE, json.dumps(plan.to_dict()).encode())
    return flatbuffer.write(model)


def plan_of(content: bytes) -> StreamPlan | None:
    """What `with_plan` noted; None for a file that is no streaming one.

    Raises:
        ConversionError: a note that is no such plan, or not of this file.
    """
    note = file_notes.read_note(content, _NOTE)
    if note is None:
        return None

    def plan(data) -> StreamPlan:
        found = StreamPlan.from_dict(data)
        inputs, outputs = ({port.name: port for port in side} for side in ports_of(content))
        for port in (*found.inputs, *(state for state in found.states)):
            name = getattr(port, "input", None) or getattr(port, "name", None)
            if name not in inputs or tuple(inputs[name].shape[1:]) != port.shape:
                raise ValueError(f"it names the input {name!r}")
        for name in (*(out.name for out in found.outputs), *(state.output for state in found.states)):
            if name not in outputs:
                raise ValueError(f"it names the output {name!r}")
        return found

    return json_text.read(note.decode("utf-8", "replace"), plan, ConversionError, "The file's note of its streaming")
