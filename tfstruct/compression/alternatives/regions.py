"""`Region`: a stretch of a traced model with one tensor in and one tensor out; found by dominators."""

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

import keras

from tfstruct.graph import Call, Graph
from tfstruct.graph.copying import copied
from tfstruct.graph.rebuild import excerpt
from tfstruct.graph.trace import Body
from tfstruct.keras_internals.graph_nodes import Node, mask_of

Step = tuple[Node, "Call | Body"]


@dataclasses.dataclass(frozen=True, eq=False)
class Region:
    """A stretch of a model: all that lies between one tensor and another; or the whole model.

    Attributes:
        name: path of the first and the last of its calls, or the name of the whole model.
        body: the (nested) model that it lies in.
        steps: its calls there, in order of execution.
        inputs, outputs: the tensors of `body` that it lies between, one each; of the whole model all of them.
        whole: whether it is the whole model.
    """

    name: str
    body: Body
    steps: tuple[Step, ...]
    inputs: tuple[keras.KerasTensor, ...]
    outputs: tuple[keras.KerasTensor, ...]
    whole: bool = False

    @property
    def calls(self) -> tuple[Call, ...]:
        """Every call in it, those of nested models too."""
        return tuple(call for _, step in self.steps for call in calls_of_step(step))


def region_model(graph: Graph, region: Region) -> keras.Model:
    """A region as a model of its own, on copies of the weights; its layers have the paths that they have in the whole.

    Example:
        >>> from tfstruct.compression.alternatives.regions import region_model, region_of
        >>> graph = tfstruct.graph.trace(convnet)
        >>> region_model(graph, region_of(graph, ["branch"])).output_shape
        (None, 12, 12, 8)
    """
    if region.whole:
        return copied(graph.model)
    return excerpt(graph, region.body, region.steps, region.inputs, region.outputs)


def whole_model(graph: Graph) -> Region:
    """The whole model as a region; it may have several inputs and outputs."""
    body = graph.body
    inside = body.functional
    return Region(graph.model.name, body, tuple(body.steps), tuple(inside.inputs), tuple(inside.outputs), True)


def regions(graph: Graph) -> tuple[Region, ...]:
    """The regions that a model is made of: a layer, a residual block with its join, a stage that a skip spans; each
    before those inside of it. Chains of them are regions too, which `region_of` finds.

    Args:
        graph: from `trace`.
    """
    found = [region for body in bodies_once(graph) for region in _Flow(graph, body).elementary()]
    place = {id(call): i for i, call in enumerate(graph.calls)}

    def order(region: Region) -> tuple[int, int]:
        places = [place[id(call)] for call in region.calls]
        return min(places), -len(places)

    once = {frozenset(id(call) for call in region.calls): region for region in reversed(found)}
    return tuple(sorted(once.values(), key=order))


def region_of(graph: Graph, layers: Collection[str]) -> Region:
    """The smallest region that contains every call of these layers; the whole model where no other does.

    Args:
        graph: from `trace`.
        layers: their paths, those of layers inside others too.
    """
    wanted = {id(call) for call in graph.calls if any(_is_of(path, call) for path in layers)}
    for body in sorted(bodies_once(graph), key=lambda body: -body.path.count("/")):
        if wanted <= {id(call) for _, step in body.steps for call in calls_of_step(step)}:
            region = _Flow(graph, body).around(wanted)
            if region is not None:
                return region
    return whole_model(graph)


def bodies_once(graph: Graph) -> Iterator[Body]:
    """The model, and the nested models in it that are called once, the outer ones first."""
    counts = Counter(id(body.model) for body in _bodies(graph.body))
    waiting = [graph.body]
    while waiting:
        body = waiting.pop(0)
        yield body
        inner = [step for _, step in body.steps if isinstance(step, Body)]
        waiting += [step for step in inner if counts[id(step.model)] == 1]


def calls_of_step(step: Call | Body) -> list[Call]:
    """The calls that a step of a body stands for."""
    return [step] if isinstance(step, Call) else [call for _, one in step.steps for call in calls_of_step(one)]


def _bodies(body: Body) -> Iterator[Body]:
    yield body
    for _, step in body.steps:
        if isinstance(step, Body):
            yield from _bodies(step)


def _is_of(path: str, call: Call) -> bool:
    """Whether a path is that of a call's layer, of one inside of it, or of what it makes (`attention.heads`)."""
    return path == call.path or path.startswith((f"{call.path}/", f"{call.path}."))


class _Flow:
    """The steps of a body as a graph from its inputs to its outputs. Its nodes are numbers: 0 is before all inputs, the
    last one behind all outputs; between lie inputs and steps."""

    def __init__(self, graph: Graph, body: Body):
        inputs, steps = body.functional.inputs, body.steps
        self._graph, self._body, self._first = graph, body, 1 + len(inputs)
        self._end = self._first + len(steps)
        self._made: list[Sequence[keras.KerasTensor]] = [(), *([x] for x in inputs), *(n.outputs for n, _ in steps), ()]
        maker = {id(x): i for i, made in enumerate(self._made) for x in made}
        read = [[], *([] for _ in inputs), *(node.input_tensors for node, _ in steps), body.functional.outputs]
        self._before = [sorted({maker[id(x)] for x in tensors}) for tensors in read]
        for i in range(1, self._first):
            self._before[i] = [0]
        self._after: list[list[int]] = [[] for _ in self._made]
        for i, before in enumerate(self._before):
            for one in before:
                self._after[one].append(i)
        self._flows = [True] * self._first  # whether something of the input arrives: constants do not count
        for i in range(self._first, self._end + 1):
            self._flows.append(any(self._flows[one] for one in self._before[i]))
        self._dominator = self._dominators()
        self._follower = self._followers()
        calls = Counter(id(call.op) for call in graph.calls)
        users: dict[int, set[int]] = {}
        for call in graph.calls:
            for weight in getattr(call.op, "weights", ()):
                users.setdefault(id(weight), set()).add(id(call.op))
        self._calls, self._users = calls, users

    def elementary(self) -> list[Region]:
        """Of each step, the region from the nearest tensor that all ways to it pass, where that is one."""
        found = []
        for i in range(self._first, self._end):
            if self._flows[i] and self._dominator[i]:
                found.append(self._region(self._dominator[i], i))
        return [region for region in found if region is not None]

    def around(self, wanted: set[int]) -> Region | None:
        """The smallest region that has all of these calls, by id."""
        places = [
            i for i in range(self._first, self._end)
            if any(id(call) in wanted for call in calls_of_step(self._body.steps[i - self._first][1]))
        ]  # fmt: skip
        if not places:
            return None
        starts = self._way([self._dominator[i] for i in places], self._dominator)
        ends = self._way(places, self._follower)
        best: Region | None = None
        for start in starts:
            for end in ends:
                if start in self._chain(end, self._dominator):
                    found = self._region(start, end)
                    if found is not None:
                        best = found if best is None or len(found.calls) < len(best.calls) else best
                        break
        return best

    def _way(self, places: Sequence[int], upwards: Sequence[int]) -> list[int]:
        """What all of these nodes lie behind, the nearest first."""
        common = self._chain(places[0], upwards)
        for place in places[1:]:
            other = set(self._chain(place, upwards))
            common = [one for one in common if one in other]
        return [one for one in common if 0 < one < self._end]

    def _chain(self, place: int, upwards: Sequence[int]) -> list[int]:
        found = [place]
        while upwards[found[-1]] != found[-1]:
            found.append(upwards[found[-1]])
        return found

    def _dominators(self) -> list[int]:
        """By node, the nearest one that all ways from the inputs to it pass."""
        found = [0] * len(self._made)
        for i in range(1, len(found)):
            before = [one for one in self._before[i] if self._flows[one]]
            nearest = before[0] if before else 0
            for one in before[1:]:
                nearest = _meet(nearest, one, found, max)
            found[i] = nearest
        return found

    def _followers(self) -> list[int]:
        """By node, the nearest one that all ways from it to the outputs pass."""
        found = [self._end] * len(self._made)
        for i in range(len(found) - 2, -1, -1):
            nearest = self._after[i][0] if self._after[i] else self._end
            for one in self._after[i][1:]:
                nearest = _meet(nearest, one, found, min)
            found[i] = nearest
        return found

    def _region(self, start: int, end: int) -> Region | None:
        """What lies between two nodes; None if that cannot be taken out."""
        if len(self._made[start]) != 1 or len(self._made[end]) != 1 or end < self._first:
            return None
        inside, waiting = {end}, [end]
        while waiting:
            for one in self._before[waiting.pop()]:
                if one != start and one not in inside:
                    inside.add(one)
                    waiting.append(one)
        if min(inside) < self._first or any(set(self._after[i]) - inside for i in inside - {end}):
            return None
        steps = tuple(self._body.steps[i - self._first] for i in sorted(inside))
        (entry,), (made,) = self._made[start], self._made[end]
        if mask_of(entry) is not None or mask_of(made) is not None or not self._alone(steps):
            return None
        calls = [call for _, step in steps for call in calls_of_step(step)]
        name = calls[-1].path if len(calls) == 1 else f"{calls[0].path} to {calls[-1].path}"
        return Region(name, self._body, steps, (entry,), (made,))

    def _alone(self, steps: Sequence[Step]) -> bool:
        """Whether no layer and no weight in these steps is used outside of them too."""
        calls = [call for _, step in steps for call in calls_of_step(step)]
        inside = Counter(id(call.op) for call in calls)
        if any(self._calls[op] != count for op, count in inside.items()):
            return False
        return all(
            self._users[id(weight)] <= inside.keys() for call in calls for weight in getattr(call.op, "weights", ())
        )


def _meet(one: int, other: int, upwards: Sequence[int], further) -> int:
    """The nearest node that both lie behind; `further` tells which of two is farther from the root."""
    while one != other:
        if further(one, other) == one:
            one = upwards[one]
        else:
            other = upwards[other]
    return one
