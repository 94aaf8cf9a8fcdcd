"""Tensors of a `.tflite` file named after their Keras layers, and each operator's layers."""

from collections.abc import Iterable, Iterator, Mapping, Set

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfstruct.convert import flatbuffer, kept_biases
from tfstruct.convert.file_writing import write_behind
from tfstruct.convert.scopes import scope_at
from tfstruct.tflite_operators import traits_of


def rename(
    content: bytes,
    scopes: Mapping[str, str],
    output_layers: Mapping[str, str],
    results: Mapping[str, Set[str]],
) -> tuple[bytes, dict[str, tuple[str, ...]], dict[str, set[str]]]:
    """Gives every tensor a short, unique name after its Keras layer.

    The converter's own names join all graph nodes that were fused into a tensor; they take kilobytes of a
    small file. Inputs and outputs get their signature names, an operator's result the path of its last layer,
    a constant the path of the layer that reads it.

    Args:
        scopes: name scope of the graph -> layer path, in the order in which the layers make their results.
        output_layers: signature name of an output -> layer path.
        results: path of a layer -> the graph nodes of what it returns.

    Returns:
        The new file, a step towards others (`write_behind`), for every tensor that holds an activation the layers that
        were fused into it, and for every layer of `results` the tensors that hold what it returns.
    """
    model = flatbuffer.read(content)
    kept_biases.unmark(model)
    _slice_half_read_splits(model)
    _give_buffers_of_their_own(model)
    origin: dict[str, tuple[str, ...]] = {}
    holders: dict[str, set[str]] = {path: set() for path in results}
    taken: set[str] = set()

    def unique(name: str, number: int) -> bytes:
        found = flatbuffer.free_name(f"{flatbuffer.SUBGRAPH_PREFIX}{number}/{name}" if number else name, taken)
        taken.add(found)
        return found.encode()

    for number, graph in enumerate(model.subgraphs):
        signature = next((s for s in model.signatureDefs or [] if s.subgraphIndex == number), None)
        border: dict[int, str] = {}
        for maps in (signature.outputs, signature.inputs) if signature else ():
            border.update({m.tensorIndex: m.name.decode() for m in maps})
        fused: dict[int, tuple[str, ...]] = {}
        for operator in graph.operators:
            layers = _fused_layers(graph, operator, scopes, border, output_layers)
            # An operator without a trace of its own belongs to the layer whose result it works on.
            layers = layers or next((fused[i] for i in operator.inputs if fused.get(i)), ())
            fused.update(dict.fromkeys(operator.outputs, layers))
        # Several operators in place of one node have its name: the last of them makes what it makes.
        last = {key: index for index in fused for key in _held(graph, index, border, output_layers, results)}
        held: dict[int, list[str]] = {}
        for (path, _), index in last.items():
            held.setdefault(index, []).append(path)
        for index, name in border.items():
            graph.tensors[index].name = unique(name, number)
        for operator in graph.operators:
            layers = fused[operator.outputs[0]] if len(operator.outputs) else ()
            base = layers[0] if layers else flatbuffer.operator_name(model, operator).lower()
            for index in operator.outputs:
                if index not in border:
                    graph.tensors[index].name = unique(base, number)
                origin[graph.tensors[index].name.decode()] = layers
                for path in held.get(index, ()):
                    holders[path].add(graph.tensors[index].name.decode())
            kernel = traits_of(flatbuffer.operator_name(model, operator)).kernel
            for place, index in enumerate(operator.inputs):
                tensor = graph.tensors[index] if index >= 0 else None
                if tensor is not None and flatbuffer.is_constant(model, tensor) and tensor.name.decode() not in taken:
                    suffix = "constant" if kernel is None else {0: "kernel", 1: "bias"}.get(place - kernel, "constant")
                    # In a fused operator the weights are those of the layer first in the chain.
                    tensor.name = unique(f"{layers[-1] if layers else base}/{suffix}", number)
        for tensor in graph.tensors:
            if tensor.name.decode() not in taken:
                tensor.name = unique("tensor", number)
    return write_behind(model), {name: tuple(reversed(layers)) for name, layers in origin.items()}, holders


def tidied(model: schema.ModelT) -> dict[str, tuple[str, ...]]:
    """Gives every tensor of a float file from elsewhere a name of its own, as quantizers need: the first of the names
    that the converter joined.

    Returns:
        For every tensor that an operator of the main graph makes its name as that of a layer, which it often holds.
    """
    _slice_half_read_splits(model)
    _give_buffers_of_their_own(model)
    taken: set[str] = set()
    layers: dict[str, tuple[str, ...]] = {}
    for number, graph in enumerate(model.subgraphs):
        prefix = f"{flatbuffer.SUBGRAPH_PREFIX}{number}/" if number else ""
        for tensor in graph.tensors:
            name = flatbuffer.free_name(prefix + (tensor.name.decode().split(";")[0] or "tensor"), taken)
            taken.add(name)
            tensor.name = name.encode()
        for operator in graph.operators:
            for index in operator.outputs:
                name = graph.tensors[index].name.decode()
                layers[name] = (flatbuffer.layer_in_name(name),)
    return layers


def _held(graph, index: int, border, output_layers, results) -> Iterator[tuple[str, str]]:
    """The layers of `results` whose result a tensor may be, and the node of the graph by which it is."""
    if index in border:  # its name says nothing of where it came from
        last = output_layers.get(border[index], "")
        yield from ((path, border[index]) for path in results if f"{last}/".startswith(f"{path}/"))
        return
    # The converter puts digits behind a name that it has given to a constant.
    nodes = {
        part for node in graph.tensors[index].name.decode().split(";") for part in (node, node.rstrip("0123456789"))
    }
    yield from ((path, node) for path, own in results.items() for node in nodes & own)


def _give_buffers_of_their_own(model: schema.ModelT) -> None:
    """Parts constants of equal bytes and another shape, as kernels of zeros are: they share no scales."""
    shapes: dict[int, list[int]] = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if flatbuffer.is_constant(model, tensor):
                shape = list(tensor.shape)
                if shapes.setdefault(tensor.buffer, shape) != shape:
                    data = np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.uint8)
                    flatbuffer.set_constant(model, tensor, data)


def _slice_half_read_splits(model: schema.ModelT) -> None:
    """Replaces each operator that splits a tensor, and of which not all parts are read, by a STRIDED_SLICE a part that
    is.

    An unrolled LSTM has one: its first step has no state to forget. Nobody computes the part that is not read, so
    it has no range, and without that quantizers leave the operator in float or write a file that does not load.
    """
    graph = model.subgraphs[0]
    read_by_some = {int(i) for op in graph.operators for i in op.inputs} | {int(i) for i in graph.outputs}
    operators = []
    for op in graph.operators:
        parts = [int(i) for i in op.outputs]
        name = flatbuffer.operator_name(model, op)
        splits = traits_of(name).splits
        if splits is None or read_by_some.issuperset(parts):
            operators.append(op)
            continue
        place, axis_place = splits
        source = int(op.inputs[place])
        rank = len(graph.tensors[source].shape)
        if axis_place is None:
            axis = op.builtinOptions.axis % rank
        else:
            axis = int(flatbuffer.constant(model, graph.tensors[op.inputs[axis_place]], np.int32).ravel()[0]) % rank
        sizes = [1 if axis_place is None else int(graph.tensors[i].shape[axis]) for i in parts]
        for start, size, part in zip(np.cumsum([0, *sizes[:-1]]), sizes, parts, strict=True):
            if part in read_by_some:
                # Of the other axes all is taken, however long they are.
                options = schema.StridedSliceOptionsT()
                options.beginMask = options.endMask = ((1 << rank) - 1) & ~(1 << axis)
                options.shrinkAxisMask = 1 << axis if axis_place is None else 0
                begin, end = np.zeros((2, rank), np.int32)
                begin[axis], end[axis] = start, start + size
                bounds = [
                    flatbuffer.add_constant(model, graph, value, graph.tensors[part].name, schema.TensorType.INT32)
                    for value in (begin, end, np.ones(rank, np.int32))
                ]
                kind = schema.BuiltinOptions.StridedSliceOptions
                operators.append(
                    flatbuffer.new_operator(model, "STRIDED_SLICE", [source, *bounds], [part], kind, options)
                )
    graph.operators = operators


def _fused_layers(graph, operator, scopes, border, output_layers) -> tuple[str, ...]:
    """Paths of the layers behind an operator, the last one first."""
    layers = _layers_named(graph, operator.outputs, scopes)
    outputs = [border[i] for i in operator.outputs if i in border]
    if not layers:  # the converter renames a graph output, and with it loses where it came from
        layers = [output_layers[name] for name in outputs if name in output_layers]
    for index in operator.inputs[1:] if len(operator.inputs) > 1 else ():
        layers = layers or _layers_named(graph, [index], scopes)
    return tuple(dict.fromkeys(layers))


def _layers_named(graph, indices: Iterable[int], scopes: Mapping[str, str]) -> list[str]:
    """The layers whose graph nodes the converter joined in the names of tensors, the last one first.

    The converter names them in an order of its own, by the operator.
    """
    nodes = [node for i in indices if i >= 0 for node in graph.tensors[i].name.decode().split(";")]
    found = {scope_at(node, scopes) for node in nodes}
    return [path for scope, path in reversed(list(scopes.items())) if scope in found]
