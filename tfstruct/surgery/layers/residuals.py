"""`residual_blocks`: joins of a shortcut and a branch, found by tracing the ancestors of each input."""

import dataclasses

import keras

from tfstruct.arguments import checked
from tfstruct.graph import Call, Graph, open_and_trace
from tfstruct.graph.opening.parts import values_read
from tfstruct.graph.operation_traits import traits_of
from tfstruct.graph.traits import Traits
from tfstruct.surgery.layers.places import Place, Places, shown

# Kernels of which a projection holds at most one, without an activation.
_PROJECTIONS = ("conv", "dense", "einsum")


@dataclasses.dataclass(frozen=True)
class Block:
    """A residual block, `join = shortcut + branch`.

    Attributes:
        join: the path of the Add, which names the block.
        kind: `identity`, or `projection` where the shortcut has layers of its own, such as a strided convolution.
        shortcut: which input of the join it is.
        branch: the paths of the layers that go with the branch, in order.
        obstacle: why the branch cannot be dropped, or None.
    """

    join: str
    kind: str
    shortcut: int
    branch: tuple[str, ...]
    obstacle: str | None = None


@checked
def residual_blocks(model: keras.Model, *, open_layers: str | bool = "auto") -> tuple[Block, ...]:
    """Finds the residual blocks of a model, in order: each Add of two tensors where one is made from the other
    (identity shortcut), or both from one tensor, one of them by at most one convolution or dense layer and no
    activation (projection shortcut).

    Finds the blocks of ResNets (also pre-activation), MobileNetV2, EfficientNets and transformers, also in nested
    models. Of blocks within blocks, the inner ones can be dropped.

    Args:
        model: a Sequential or functional model, also nested.
        open_layers: `"auto"`: custom layers are opened first (`tfstruct.surgery.open_layers`); False: none is.

    Returns:
        The blocks, each with its join (`.join`), its shortcut and its branch.

    Raises:
        ModelError: the model's graph cannot be walked (a subclassed model).

    Example:
        >>> [block.join for block in tfstruct.surgery.residual_blocks(convnet)]
        ['sum']
    """
    return tuple(block for block, _ in found_blocks(open_and_trace(model, open_layers=open_layers)))


def found_blocks(graph: Graph) -> list[tuple[Block, Place]]:
    """The blocks, each with its join."""
    made_from = _Ancestry(graph)
    found = []
    for place in Places(graph).all.values():
        calls = [visit.step for visit in place.visits if isinstance(visit.step, Call)]
        if traits_of(place.op).joins != "add" or len(calls) < len(place.visits):
            continue
        sides = [side for call in calls if (side := made_from.sides(call)) is not None]
        if len(sides) < len(calls) or len({(kind, index) for kind, index, _ in sides}) > 1:
            continue
        kind, index, branch = sides[0]
        found.append((Block(place.path, kind, index, tuple(c.path for c in branch), _obstacle(place, index)), place))
    joins = {block.join for block, _ in found}
    return [(_smallest(block, joins), place) for block, place in found]


def _obstacle(place: Place, shortcut: int) -> str | None:
    if len({id(visit.node) for visit in place.visits}) > 1:
        return "its Add joins several blocks"
    node = place.visits[0].node
    (made,), given = node.outputs, node.arguments.keras_tensors[shortcut]
    if tuple(given.shape) != tuple(made.shape):
        return f"its shortcut has the shape {shown(given.shape)}, its output {shown(made.shape)}"
    if given.dtype != made.dtype:
        return f"its shortcut is {given.dtype}, its output {made.dtype}"
    return None


def _smallest(block: Block, joins: set[str]) -> Block:
    inner = [path for path in block.branch if path in joins]
    if not inner or block.obstacle:
        return block
    return dataclasses.replace(block, obstacle=f"it holds other blocks, such as {inner[0]}")


class _Ancestry:
    """Tensor key -> the calls that it is made from, as a bit set."""

    def __init__(self, graph: Graph):
        self._calls = graph.calls
        self._behind: dict[int, int] = {}  # key of a tensor -> the calls before it, its maker among them
        self._maker: dict[int, int] = {}
        self._readers: dict[int, list[Call | None]] = {x.key: [None] for x in graph.outputs}
        for i, call in enumerate(graph.calls):
            for x in call.inputs:
                self._readers.setdefault(x.key, []).append(call)
            before = 0
            for x in values_read(call):
                before |= self._behind.get(x.key, 0)
            for x in call.outputs:
                self._behind[x.key], self._maker[x.key] = before | 1 << i, i

    def sides(self, join: Call) -> tuple[str, int, list[Call]] | None:
        """Kind of the shortcut, its input index, and the calls of the branch; None if the join ends no block."""
        if len(join.inputs) != 2 or len(join.node.arguments.keras_tensors) != 2 or len(join.outputs) != 1:
            return None
        keys = [x.key for x in join.inputs]
        if keys[0] == keys[1]:
            return None
        own = [self._own(keys[i], keys[1 - i]) for i in (0, 1)]
        for i in (0, 1):
            if not own[i] and any(x.key == keys[i] for call in own[1 - i] for x in values_read(call)):
                return "identity", i, self._vanishing(own[1 - i], join)
        if not own[0] or not own[1]:
            return None
        enters = [self._enters(calls) for calls in own]
        projections = [i for i in (0, 1) if _projects(own[i])]
        if len(projections) == 1 and len(enters[0]) == 1 and enters[projections[0]] <= enters[1 - projections[0]]:
            return "projection", projections[0], own[1 - projections[0]]
        return None

    def _own(self, key: int, other: int) -> list[Call]:
        """Calls that only one of two tensors is made from."""
        bits = self._behind.get(key, 0) & ~self._behind.get(other, 0)
        return [call for i, call in enumerate(self._calls) if bits >> i & 1]

    def _vanishing(self, branch: list[Call], join: Call) -> list[Call]:
        """Those that nothing else reads: an encoder that a decoder attends to more than once is no part of a branch."""
        gone = {id(join)}
        for call in reversed(branch):
            if all(id(reader) in gone for x in call.outputs for reader in self._readers.get(x.key, ())):
                gone.add(id(call))
        return [call for call in branch if id(call) in gone]

    def _enters(self, calls: list[Call]) -> set[int]:
        """Tensors that these calls read and do not make."""
        made = {x.key for call in calls for x in call.outputs}
        return {x.key for call in calls for x in values_read(call)} - made


def _projects(calls: list[Call]) -> bool:
    contractions = [call for call in calls if traits_of(call.op).kernel in _PROJECTIONS]
    if len(contractions) > 1 or any(call.op.activation is not keras.activations.linear for call in contractions):
        return False
    return len(contractions) + sum(_passes(traits_of(call.op)) for call in calls) == len(calls)


def _passes(traits: Traits) -> bool:
    """Whether a projection may have such a layer besides its contraction: pools, borders, normalization."""
    spatial = traits.by_channel and traits.over != "positions"
    return spatial or traits.moves == "identity" or bool(traits.statistics and not traits.function)
