"""How much a model loses when a group gives up a share of its channels, one group at a time."""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np

from tfstruct.analyze.evaluation import predictor, scoring
from tfstruct.analyze.inference import in_inference
from tfstruct.analyze.masking import masked
from tfstruct.analyze.names import by_name
from tfstruct.analyze.scores import unit_scores
from tfstruct.arguments import is_count
from tfstruct.errors import ArgumentError, DataError, ModelError
from tfstruct.files import write_atomic
from tfstruct.graph import Graph, Group, fingerprint, open_and_trace
from tfstruct.graph.blocks import atoms
from tfstruct.reporting import OpenedReport, Plotted, Sheet
from tfstruct.samples.for_model import samples_of
from tfstruct.terminal import Progress, Verbose, shows_progress, silent
from tfstruct.untrusted import json_text

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclasses.dataclass(frozen=True)
class Sensitivity(Plotted, OpenedReport):
    """What masking a share of one group's channels does to a model.

    `plot` draws a row a group and a column a ratio, coloured by how far the metric is from the unmasked model's.

    Attributes:
        model: its name.
        metric: what was measured: `"accuracy"`, `"loss"` or the name of the user's function.
        baseline: of the unmasked model.
        ratios: the shares that were asked for.
        groups: by name of the group, one value for each ratio.
        removed: by name, how many units were masked at each ratio.
    """

    model: str
    metric: str
    baseline: float
    ratios: tuple[float, ...]
    groups: dict[str, tuple[float, ...]]
    removed: dict[str, tuple[int, ...]]

    @classmethod
    def from_dict(cls, data: Mapping) -> "Sensitivity":
        groups = {k: tuple(math.nan if v is None else v for v in values) for k, values in data["groups"].items()}
        removed = {k: tuple(values) for k, values in data["removed"].items()}
        lists = {key: tuple(data[key]) for key in ("ratios", "opened") if key in data}
        return cls(**{**data, **lists, "groups": groups, "removed": removed})

    def ranked(self) -> list[str]:
        """Names of the groups, those first whose masking changes the metric least, in the mean over the ratios."""
        return sorted(self.groups, key=lambda name: np.mean(np.abs(np.array(self.groups[name]) - self.baseline)))

    def sheet(self) -> Sheet:
        columns = ("group", *((f"-{ratio:.0%}", ".4g") for ratio in self.ratios))
        rows = [(name, *values) for name, values in self.groups.items()]
        return Sheet(f"{self.model}: {self.metric}, {self.baseline:.4g} unmasked", columns, rows)

    def _size(self) -> tuple[float, float]:
        return 4.5 + 0.75 * len(self.ratios), 1.6 + 0.26 * len(self.groups)

    def _draw(self, axis) -> None:
        values = np.array(list(self.groups.values()), float).reshape(len(self.groups), len(self.ratios))
        # Yellow is the unmasked model, whichever way the metric runs.
        far = np.abs(values - self.baseline)
        most = float(np.nanmax(far, initial=0.0)) or 1.0
        image = axis.imshow(far, aspect="auto", cmap="viridis_r", vmin=0, vmax=most)
        axis.figure.colorbar(image, ax=axis, label=f"change of the {self.metric}")
        for (i, j), value in np.ndenumerate(values):
            colour = "white" if far[i, j] > 0.45 * most else "black"
            axis.text(j, i, f"{value:.3g}", ha="center", va="center", fontsize=7, color=colour)
        axis.set_xticks(range(len(self.ratios)), [f"{r:.0%}" for r in self.ratios])
        axis.set_yticks(range(len(values)), list(self.groups), fontsize=7)
        axis.set_xlabel("share of the group's channels masked")
        axis.set_title(f"{self.model}: {self.metric}, {self.baseline:.4g} unmasked")


@in_inference
@shows_progress
def sensitivity(
    model,
    data,
    labels=None,
    *,
    loss=None,
    metric: str | Callable | None = None,
    ratios: Sequence[float] = RATIOS,
    criterion: str | Callable = "l2",
    groups: Sequence[str] | None = None,
    path: str | os.PathLike | None = None,
    batch_size: int = 64,
    progress: Progress = silent,
    verbose: Verbose = "auto",
    open_layers: str | bool = "auto",
) -> Sensitivity:
    """Masks, group by group and ratio by ratio, the least important units, and measures what is left of the model.

    Of a group of n units, `round(ratio * n)` are masked, at least one and never all; where blocks have to stay equal,
    the nearest number that keeps them so. Masked channels are zero in all weights that make, carry or read them; the
    weights are put back afterwards, also after an error. Statistics over channels (LayerNormalization) still count
    the masked ones.

    Args:
        model: Sequential or functional.
        data, labels: samples with labels, see `tfstruct.samples`.
        loss: for `metric="loss"` and criteria that need one; by default the one the model is compiled with.
        metric: `"accuracy"` (share of samples whose largest output, or output beyond 0.5, is right), `"loss"`, or a
            function (labels, outputs) -> float over all samples; by default accuracy where labels are classes, that is
            integers or one-hot rows, and loss otherwise.
        ratios: shares in (0, 1).
        criterion: which units go first, see `importance`.
        groups: names of the groups to look at; by default all that are prunable.
        path: a JSON file that holds the results so far, written whole after every group. If it is there, only what is
            missing is computed.
        progress: called with (stage, measurements done, measurements in all); True and False: whether a bar is shown.
        verbose: what is shown while it works, see `tfstruct.compress`.
        open_layers: `"auto"`: custom layers are opened first (`tfstruct.surgery.open_layers`); False: none is.

    Returns:
        `Sensitivity`: loss or metric by group and ratio.

    Raises:
        DataError: data without labels, or that do not fit; a `path` written for another model or other options.
        ModelError: an unknown group, or none that is prunable.

    Example:
        >>> found = tfstruct.analyze.sensitivity(model, x, y, ratios=(0.5,))
        >>> list(found.groups)
        ['hidden']
    """
    graph = open_and_trace(model, open_layers=open_layers)
    ratios = tuple(float(r) for r in ratios)
    if not ratios or not all(0 < r < 1 for r in ratios):
        raise ArgumentError(f"`ratios` must be numbers in (0, 1). Received: {ratios}.")
    found = samples_of(model, data, labels, need="sensitivity needs labels").in_memory()
    x, y = found.inputs, found.labels
    chosen = _chosen(graph, groups)
    name, score = scoring(graph, y, loss, metric)
    outputs = predictor(graph, x, batch_size)
    names = criterion if isinstance(criterion, str) else getattr(criterion, "__name__", "custom")
    header = {
        "model": fingerprint(graph.model),
        "weights": _digest(map(keras.ops.convert_to_numpy, model.weights)),
        "metric": name,
        "criterion": names,
    }
    header |= {"data": _digest(keras.tree.flatten([x, y]))}
    state = _read(path, header)
    if "baseline" not in state:
        state |= {"baseline": score(y, outputs()), "groups": {}}
    missing = [(g, r) for g in chosen for r in ratios if str(r) not in state["groups"].get(g, {})]
    if missing:
        scores = unit_scores(graph, criterion, data=(x, y), loss=loss, missing="keep")
    done = 0
    for group in dict.fromkeys(g for g, _ in missing):
        for ratio in [r for g, r in missing if g == group]:
            gone = _least_important(chosen[group], scores, ratio)
            keep = np.ones(graph.units.count, bool)
            keep[gone] = False
            with masked(graph, keep):
                value = score(y, outputs())
            state["groups"].setdefault(group, {})[str(ratio)] = [value, len(gone)]
            done += 1
            progress("sensitivity", done, len(missing))
        _write(path, {**header, **state})
    results = {g: [state["groups"][g][str(r)] for r in ratios] for g in chosen}
    return Sensitivity(
        model=model.name,
        metric=name,
        baseline=state["baseline"],
        ratios=ratios,
        groups={g: tuple(v for v, _ in values) for g, values in results.items()},
        removed={g: tuple(n for _, n in values) for g, values in results.items()},
        opened=graph.opened,
        opaque=graph.opaque,
    )


def _chosen(graph: Graph, names) -> dict[str, Group]:
    named = by_name(graph)
    prunable = {name: group for name, group in named.items() if group.prunable}
    if names is None:
        if not prunable:
            raise ModelError(f"`{graph.model.name}` has no prunable group. explain(model) says why.")
        return prunable
    unknown = [name for name in names if name not in prunable]
    if unknown:
        why = f" ({named[unknown[0]].reason})" if unknown[0] in named else ""
        raise ModelError(f"Expected prunable groups of {', '.join(prunable)}. Received: {unknown[0]}{why}.")
    return {name: prunable[name] for name in names}


def _least_important(group: Group, scores: np.ndarray, ratio: float) -> list[int]:
    """Sets of units that can go together, until `ratio` of the group is reached; never all."""
    wanted = min(max(round(ratio * group.width), 1), group.width - 1)
    gone: list[int] = []
    for atom in atoms(group.free, group.blocks, scores):
        if len(gone) + len(atom) >= group.width or (gone and len(gone) + len(atom) / 2 > wanted):
            break
        gone += atom
    return gone


def _digest(values) -> str:
    """Tells arrays from others of the same shapes."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()[:16]


def _read(path, header: dict) -> dict:
    if path is None or not os.path.exists(path):
        return {}
    try:
        with open(path, "rb") as file:
            state = json_text.parse(file.read())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no file of sensitivity: {error}. Give another path, or delete it.") from error
    held = {key: state.get(key) for key in header} if isinstance(state, dict) else {}
    different = [key for key in header if held.get(key) != header[key]]
    if different:
        raise DataError(f"{path} was written for another {' and '.join(different)}. Give another path, or delete it.")
    if not _is_state(state):
        raise DataError(f"{path} is no file of sensitivity: its figures are none. Give another path, or delete it.")
    return {key: state[key] for key in ("baseline", "groups") if key in state}


def _is_state(state: Mapping) -> bool:
    """Whether the figures are such as `_write` was given; a run that was ended early has none."""
    groups = state.get("groups", {})
    if ("baseline" in state) != ("groups" in state) or not isinstance(groups, dict):
        return False
    pairs = [pair for values in groups.values() for pair in (values.values() if isinstance(values, dict) else [None])]
    numbers = [state.get("baseline", 0.0)]
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or not is_count(pair[1], 0):
            return False
        numbers.append(pair[0])
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in numbers)


def _write(path, state: dict) -> None:
    if path is not None:
        write_atomic(path, json.dumps(state, indent=1).encode())
