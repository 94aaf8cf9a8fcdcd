"""A SavedModel's graph, judged before TensorFlow loads it: it holds only operators that compute."""

import functools
from collections.abc import Iterable, Iterator

from tfstruct.errors import ModelError
from tfstruct.keras_internals.tensorflow import is_operator, operators_of

# TensorFlow's groups of operators that compute on tensors and on the variables and tables of the model.
_COMPUTING = (
    "array",
    "audio",
    "bitwise",
    "candidate_sampling",
    "clustering",
    "composite_tensor",
    "control_flow",
    "count",
    "ctc",
    "cudnn_rnn",
    "functional",
    "image",
    "linalg",
    "list",
    "lookup",
    "manip",
    "map",
    "math",
    "nn",
    "optional",
    "parsing",
    "ragged_array",
    "ragged_conversion",
    "ragged_math",
    "random",
    "random_index_shuffle",
    "resource_variable",
    "rnn",
    "set",
    "sparse",
    "special_math",
    "spectral",
    "state",
    "stateful_random",
    "stateless_random",
    "string",
    "training",
    "uniform_quant",
)
_REACH_OUT = {
    "Abort",
    "ConsumeMutexLock",
    "ImmutableConst",  # maps a file into memory
    "InitializeTableFromTextFile",
    "InitializeTableFromTextFileV2",
    "MutexLock",
    "MutexV2",
    "RemoteCall",
}
_SINGLE = {
    "Assert",
    "DynamicPartition",
    "DynamicStitch",
    # Keras 2 saves the step of `adapt`. It reads an iterator that it is given; what makes one is not allowed.
    "IteratorGetNext",
    "ParallelDynamicStitch",
}
_PREFIXES = ("TensorArray", "Stack")
# What every SavedModel holds to write its own variables; it lies where nobody calls it.
_SAVER = {"SaveV2", "RestoreV2", "ShardedFilename", "MergeV2Checkpoints"}


def refuse_operators(saved_model, folder) -> None:
    """Refuses a SavedModel with an operator that is not known to compute, in its graphs or any of their functions.

    Args:
        saved_model: the parsed `SavedModel` message.
        folder: where it is from, for messages.

    Raises:
        ModelError: names the folder, the operators, the function and the remedy.
    """
    for graph in saved_model.meta_graphs:
        found = dict(_refused(graph))
        if found:
            names = ", ".join(f"{op} ({place})" if place else op for op, place in sorted(found.items()))
            raise ModelError(
                f"{folder} holds operators that may reach outside the model: {names}. Use --trust "
                "(load(..., trust=True)) if you know where it comes from."
            )


@functools.cache
def computing() -> frozenset[str]:
    """Names of the operators that only compute."""
    names = set(_SINGLE)
    for group in _COMPUTING:
        names |= operators_of(f"gen_{group}_ops")
    names |= operators_of("gen_stateless_random_ops_v2")
    names |= {name for name in operators_of("gen_data_flow_ops") if name.startswith(_PREFIXES)}
    return frozenset(name for name in names - _REACH_OUT if name[0].isupper() and is_operator(name))


def _refused(graph) -> Iterator[tuple[str, str]]:
    """Operators that are not allowed, with the function they stand in."""
    library = graph.graph_def.library
    functions = {function.signature.name for function in library.function}
    savers = _saver_functions(graph)
    for function in library.function:
        allowed = _SAVER if function.signature.name in savers else set()
        for node in function.node_def:
            if not _computes(node.op, functions) and node.op not in allowed:
                yield node.op, function.signature.name
    nodes = {node.name: node for node in graph.graph_def.node}
    run = _reached(nodes, _roots(graph))
    restoring = _reached(nodes, [graph.saver_def.restore_op_name]) if not _is_object_graph(graph) else set()
    for name, node in nodes.items():
        if _computes(node.op, functions):
            continue
        saver = node.op in _SAVER and name not in run
        if not saver or (name in restoring and not _restores(node, graph.saver_def)):
            yield node.op, ""


def _computes(op: str, functions: set[str]) -> bool:
    return op in computing() or (op in functions and not is_operator(op))


def _is_object_graph(graph) -> bool:
    """True for what TensorFlow 2 wrote: its functions are loaded, and no node of the graph around them runs."""
    return graph.HasField("object_graph_def")


def _saver_functions(graph) -> set[str]:
    """Functions that no other and no part of the model calls, only the graph around them, which nobody runs."""
    if not _is_object_graph(graph):
        return set()
    library = graph.graph_def.library
    called = set(graph.object_graph_def.concrete_functions)
    for node in graph.object_graph_def.nodes:
        called |= set(node.function.concrete_functions) | {node.bare_concrete_function.concrete_function_name}
    called |= {entry.gradient_func for entry in library.gradient}
    called |= {entry.gradient_func for entry in library.registered_gradients}
    for function in library.function:
        for node in function.node_def:
            called |= {node.op, *_functions_of(node.attr.values())}
        # TensorFlow may run a function in place of another that implements the same.
        if "api_implements" in function.attr:
            called.add(function.signature.name)
    return {function.signature.name for function in library.function} - called


def _functions_of(attributes: Iterable) -> Iterator[str]:
    for value in attributes:
        for function in (value.func, *value.list.func):
            yield function.name
            yield from _functions_of(function.attr.values())
        # Gradients are named by text.
        if value.s:
            yield value.s.decode(errors="replace")


def _roots(graph) -> list[str]:
    """Nodes of a graph that TensorFlow 1 wrote whose values are asked for."""
    names = [info.name for signature in graph.signature_def.values() for info in signature.outputs.values()]
    for collection in graph.collection_def.values():
        names += collection.node_list.value
    return names


def _reached(nodes: dict, names: Iterable[str]) -> set[str]:
    todo, seen = [_node_of(name) for name in names], set()
    while todo:
        name = todo.pop()
        if name in nodes and name not in seen:
            seen.add(name)
            todo += [_node_of(source) for source in nodes[name].input]
    return seen


def _node_of(tensor: str) -> str:
    return tensor.lstrip("^").split(":")[0]


def _restores(node, saver) -> bool:
    """True if a node reads the variables of the model itself, whose place the loader feeds."""
    return node.op == "RestoreV2" and _node_of(node.input[0]) == _node_of(saver.filename_tensor_name)
