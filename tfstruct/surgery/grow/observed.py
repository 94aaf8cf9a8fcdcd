"""`Observed`: activations of a model on some inputs, and its outputs without some of its layers."""

import keras
import numpy as np

from tfstruct.analyze.data_criteria import run, watched
from tfstruct.graph import Call, Graph, Group

_ROWS = 4096


def _spectrum(matrix: np.ndarray, centred: bool = True) -> np.ndarray:
    """Eigenvalues of the covariance of the columns, the largest first, as shares."""
    matrix = matrix - matrix.mean(axis=0) if centred else matrix
    values = np.linalg.eigvalsh(matrix.T @ matrix)[::-1].clip(0)
    return values / values.sum() if values.sum() > 0 else values


def effective_rank(matrix: np.ndarray, centred: bool = True) -> float:
    """exp(-sum p log p), p the normalized eigenvalues of the covariance of the columns; 0 for constants."""
    p = _spectrum(matrix, centred)
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum())) if len(p) else 0.0


def principal(matrix: np.ndarray, share: float = 0.99) -> int:
    """How many principal components hold this share of the variance; 0 for constants."""
    p = _spectrum(matrix)
    return int(np.searchsorted(np.cumsum(p), share) + 1) if p.sum() > 0 else 0


class Observed:
    """The tensors of a model for some inputs.

    Attributes:
        inputs: flat list of arrays.
        outputs: flat list of arrays, in the order of the model's outputs.
    """

    def __init__(self, graph: Graph, inputs: list[np.ndarray]):
        self.graph, self.inputs = graph, inputs
        self._values = _values(graph, inputs)
        self.outputs = [self._values[x.key] for x in graph.outputs]
        self._watched = watched(graph)

    @staticmethod
    def run(graph: Graph, inputs: list[np.ndarray], without: tuple[Call, ...] = ()) -> list[np.ndarray]:
        """The outputs if a chain of calls passes on the input of its first call."""
        values = _values(graph, inputs, without)
        return [values[x.key] for x in graph.outputs]

    def channels(self, group: Group) -> np.ndarray | None:
        """Activations of shape (samples and positions, channels), behind batch norm and activation."""
        for call, place, axis, labels, positions in self._watched:
            units = self.graph.units.parts[labels[positions]]
            if not np.isin(units, group.units).any():
                continue
            value = np.moveaxis(self._values[call.outputs[place].key], axis, -1)[..., positions]
            value = value.reshape(-1, value.shape[-1]).astype("float64")
            step = max(len(value) // _ROWS, 1)
            return value[::step]
        return None

    def chains(self) -> list[tuple[list[str], tuple[Call, ...]]]:
        """Candidates for deletion: shape-preserving layers, together with a following batch norm and activation. Names
        and calls, longer chains first; layers with one call only."""
        readers: dict[int, list[Call | None]] = {}
        for call in self.graph.calls:
            for tensor in call.inputs:
                readers.setdefault(tensor.key, []).append(call)
        for tensor in self.graph.outputs:
            readers.setdefault(tensor.key, []).append(None)
        times: dict[int, int] = {}
        for call in self.graph.calls:
            times[id(call.op)] = times.get(id(call.op), 0) + 1
        found = []
        for call in self.graph.calls:
            whole = len(call.inputs) == len(call.outputs) == 1 and call.inputs[0].shape == call.outputs[0].shape
            layer = isinstance(call.op, keras.layers.Layer) and call.op.weights
            if not whole or not layer or call.in_place or times[id(call.op)] > 1:
                continue
            chain = [call]
            while True:
                after = readers.get(chain[-1].outputs[0].key, [])
                if len(after) != 1 or after[0] is None or not after[0].in_place or times[id(after[0].op)] > 1:
                    break
                if not isinstance(after[0].op, keras.layers.Layer):
                    break
                chain.append(after[0])
            found += [([c.path for c in chain[:n]], tuple(chain[:n])) for n in range(len(chain), 0, -1)]
        return found

    def twins(self) -> list[tuple[str, str, float]]:
        """(layer, later layer, cosine) of pairs of layers with weights whose outputs are equal."""
        makers = [
            call
            for call in self.graph.calls
            if call.makes and len(call.outputs) == 1 and "/" not in call.path and len(call.inputs) == 1
        ]
        found = []
        for i, first in enumerate(makers):
            for second in makers[i + 1 :]:
                same = first.inputs[0].key == second.inputs[0].key and first.op is not second.op
                if not same or first.outputs[0].shape != second.outputs[0].shape:
                    continue
                a, b = (self._values[c.outputs[0].key].ravel().astype("float64") for c in (first, second))
                cosine = float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))
                near = np.linalg.norm(a - b) <= 0.05 * np.linalg.norm(a)
                if cosine > 0.999 and near:
                    found.append((first.path, second.path, cosine))
        return found


def _values(graph: Graph, inputs, without: tuple[Call, ...] = ()) -> dict[int, np.ndarray]:
    """Tensor key -> its value."""
    values = {t.key: keras.ops.convert_to_tensor(x) for t, x in zip(graph.body.inputs, inputs, strict=True)}
    skipped = {id(call) for call in without}

    def visit(call, outputs):
        if id(call) in skipped:
            outputs[0] = values[call.inputs[0].key]
        for channels, value in zip(call.outputs, outputs, strict=True):
            values[channels.key] = value

    run(graph, list(values.values()), visit)
    return {key: keras.ops.convert_to_numpy(value) for key, value in values.items()}
