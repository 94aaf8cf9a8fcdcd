"""Activation memory of a model whose operations run one after another."""

from collections.abc import Callable, Iterator

import numpy as np

from tfstruct.analyze.counts import Counter, Terms, axis_sizes
from tfstruct.analyze.traced_work import works
from tfstruct.graph import Call, Channels, Graph
from tfstruct.graph.operation_traits import traits_of


def hands_on(call: Call) -> bool:
    """Whether the operation makes nothing new: it moves no byte, at inference."""
    return traits_of(call.op).views


class Memory:
    """Bytes of live activations: at each operation its inputs, its outputs, and what is still needed later.

    `bytes(t) = sum of size(s) over the storages s with birth(s) <= t <= last use(s)`. A view (Flatten, Reshape,
    Dropout at inference) shares its input's storage; so does an operation that works in place (activations, batch
    norm) where nothing reads the input afterwards. The model's inputs live from the start, its outputs to the end.
    An operation that no rule knows needs what the operations inside of it need, see `traced_work`.

    Args:
        itemsize: bytes of one element, from `(None, i)` for the i-th input of the model or `(call, i)` for the i-th
            output of a call.
    """

    def __init__(self, graph: Graph, counter: Counter, itemsize: Callable[[Call | None, int], int]):
        calls, end = graph.calls, max(len(graph.calls) - 1, 0)
        last = {tensor.key: t for t, call in enumerate(calls) for tensor in call.inputs}
        last.update({tensor.key: end for tensor in graph.outputs})
        self._steps = end + 1
        self._birth: list[int] = []
        self._death: list[int] = []
        sizes: list[tuple[float | None, list[np.ndarray]]] = []
        storage: dict[int, int] = {}

        def fresh(tensor: Channels, t: int, width: int) -> None:
            # The batch is one sample.
            factor, held = axis_sizes(tensor.shape[1:], tensor.axes[1:])
            factor = None if factor is None else factor * tensor.per_sample
            if tensor.rank and tensor.axes[0] is not None:
                held = [tensor.axes[0], *held]
            sizes.append((None if factor is None else factor * width, held))
            storage[tensor.key] = len(self._birth)
            self._birth.append(t)
            self._death.append(max(t, last.get(tensor.key, t)))

        for i, tensor in enumerate(graph.body.inputs):
            fresh(tensor, 0, itemsize(None, i))
        for t, call in enumerate(calls):
            came = storage.get(call.inputs[0].key) if call.inputs else None
            view = hands_on(call)
            if came is not None and not view and not (call.in_place and self._death[came] <= t):
                came = None  # it is not written over
            for i, tensor in enumerate(call.outputs):
                if tensor.key in storage:
                    continue
                if came is not None and i == 0:
                    storage[tensor.key] = came
                    self._death[came] = max(self._death[came], last.get(tensor.key, t))
                else:
                    fresh(tensor, t, itemsize(call, i))
        self._inside = np.zeros(self._steps)
        for t, work in works(graph).items():
            call = calls[t]
            own = sum(axis_sizes(x.shape[1:], (None,) * len(x.shape[1:]))[0] or 0.0 for x in _tensors(call))
            more = np.nan if work.peak is None else max(0.0, work.peak - own) * call.per_sample
            self._inside[t] = more * itemsize(call, 0)
        self._sizes = Terms(counter, len(sizes))
        for i, (factor, held) in enumerate(sizes):
            self._sizes.add(i, factor, held)

    def storages(self) -> Iterator[tuple[int, int, float, list[np.ndarray]]]:
        """(first call, last call, factor, label arrays) of each: its size is the factor times the counts of these."""
        for number, factor, labels in self._sizes.monomials():
            yield self._birth[number], self._death[number], factor, labels

    @property
    def inside(self) -> np.ndarray:
        """By call, the bytes that the operations inside of it need besides; NaN where unknown."""
        return self._inside

    def timeline(self, counts: np.ndarray, unknown: float = np.nan) -> np.ndarray:
        """Live bytes during each call; `unknown` stands for what operations inside of a call need, where it is."""
        sizes = self._sizes.values(counts)
        change = np.zeros(self._steps + 1)
        np.add.at(change, self._birth, sizes)
        np.add.at(change, np.array(self._death) + 1, -sizes)
        return np.cumsum(change)[:-1] + np.nan_to_num(self._inside, nan=unknown)


def _tensors(call: Call) -> list[Channels]:
    return list({x.key: x for x in (*call.inputs, *call.outputs)}.values())
