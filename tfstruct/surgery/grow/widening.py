"""`widen`: more channels for a layer and all that are coupled with it, the function unchanged."""

import keras
import numpy as np

from tfstruct.arguments import checked_but, is_count
from tfstruct.errors import ModelError, PlanError
from tfstruct.graph import FIXED, Graph, Out, open_and_trace, rebuild
from tfstruct.graph.blocks import atoms, distinct, solvable
from tfstruct.graph.call import Kept, copies
from tfstruct.reporting import Result
from tfstruct.surgery.certificate import difference
from tfstruct.surgery.edit_report import edited


@checked_but("to")
def widen(
    model: keras.Model,
    layer: str,
    to: int,
    *,
    noise: float = 0.0,
    seed: int = 0,
    open_layers: str | bool = "auto",
) -> Result:
    """Gives a layer `to` channels; the new ones are copies of old ones, so that the function stays (Net2WiderNet).

    Each new channel j copies an old one g(j), drawn at random, all once before any twice. With U what makes a channel
    (kernels, biases, batch norms, gates) and W what reads it:

        U'[j] = U[g(j)],   W'[j] = W[g(j)] / |{i : g(i) = g(j)}|

    Every layer coupled with this one grows along: through residuals, concatenations, depthwise and grouped
    convolutions (every group alike), recurrent gates, attention heads and the widths inside them. Statistics over
    channels, such as LayerNormalization, stay what they are only when all channels have equally many copies: there
    `to` must be a multiple of the present width.

    Copies stay equal under training, as they get equal gradients, unless dropout or `noise` parts them.

    Args:
        model: a Sequential or functional model; it is not touched.
        layer: name of the layer, `block/conv` inside a nested model; of one that makes several kinds of channels the
            kind too: `attention.heads`, `attention.key_dim`, `attention.value_dim`.
        to: its new number of channels; the present one gives a copy of the model.
        noise: what is added to the kernels that make the copies, normal with this share of the kernel's standard
            deviation. The function then changes a little.
        seed: of which channels are copied, and of the noise.
        open_layers: `"auto"`: custom layers are opened first (`tfstruct.surgery.open_layers`); False: none is.

    Returns:
        `details`: for each layer that makes the channels, `origins`: of each of its channels, the old one.

    Raises:
        PlanError: `to` is less than the layer has, or cannot be met; the layer's channels are held by something such
            as the model's output; or something sums over them without weights.
        ModelError: the model has no graph, or no such layer.

    Source: Eq. 1-3 and Sec. 2.2, arXiv:1511.05641.

    Example:
        >>> wider = tfstruct.surgery.widen(model, "hidden", to=24).model
        >>> wider.get_layer("hidden").units
        24
        >>> np.allclose(model(x), wider(x), atol=1e-5)
        True
    """
    if not is_count(to):
        raise PlanError(f"`to` must be a whole number of channels above 0. Received: {to!r}.")
    if isinstance(noise, bool) or not isinstance(noise, (int, float)) or not 0 <= noise < float("inf"):
        raise PlanError(f"`noise` must be a number from 0, a share of the kernel's deviation. Received: {noise!r}.")
    graph = open_and_trace(model, open_layers=open_layers)
    path, labels = _makes(graph, layer)
    if to < len(labels):
        raise PlanError(f"`{path}` has {len(labels)} channels; widen cannot give it {to}. plan_channels removes some.")
    times = _times(graph, path, labels, int(to), seed)
    _check_statistics(graph, path, times)
    kept, made, pairs = _built(graph, times)
    if noise:
        _add_noise(graph, kept, pairs, float(noise), np.random.default_rng(seed))
    changes, origins = [], {}
    for name, own in graph.makes.items():
        places = kept(own)
        if len(places) != len(own):
            changes.append((name, f"{len(own)} -> {len(places)} channels"))
            origins[name] = places.tolist()
    return edited(graph, made, changes, exact=not noise, details={"origins": origins}, seed=seed)


def check_growth(graph: Graph, layer: str, to: int) -> None:
    """Raises the PlanError that `widen` would raise, except for `to` below the present width."""
    path, labels = _makes(graph, layer)
    _check_statistics(graph, path, _times(graph, path, labels, to, 0))


def _makes(graph: Graph, layer: str) -> tuple[str, np.ndarray]:
    makes = graph.makes
    found = [name for name in makes if name == layer] or [name for name in makes if name.rsplit("/", 1)[-1] == layer]
    if len(found) == 1:
        return found[0], makes[found[0]]
    kinds = found or [name for name in makes if name.rsplit(".", 1)[0] == layer]
    if kinds:
        raise ModelError(f"`{layer}` may be any of {', '.join(kinds)}. Name one of them.")
    raise ModelError(
        f"No layer `{layer}` makes channels in `{graph.model.name}`. Those that do: "
        f"{', '.join(list(makes)[:12])}{', ...' if len(makes) > 12 else ''}."
    )


def _times(graph: Graph, path: str, labels: np.ndarray, to: int, seed: int) -> np.ndarray:
    """How many copies of each unit the wider model has."""
    units, times = graph.units, np.ones(graph.units.count, int)
    if to == len(labels):
        return times
    if (units.parts[labels][:, 1:] != 0).any():
        parts = [
            name for name, own in graph.makes.items() if name != path and set(units.of(own)) & set(units.of(labels))
        ]
        raise PlanError(
            f"The channels of `{path}` are taken apart into several axes later on. Widen one of {', '.join(parts)}."
        )
    own = units.of(labels)
    group = np.flatnonzero(np.isin(units.bundle, np.unique(units.bundle[own]))) if len(own) else own
    why = next((units.frozen[u] for u in own.tolist() if u in units.frozen), "they always stay")
    blocks = distinct(tuple(b for b in units.blocks if units.bundle[b.flat[0]] in units.bundle[own]))
    if not solvable(blocks):
        raise PlanError(f"`{path}` cannot grow: its channels are bound into blocks of several kinds at once.")
    free = np.array([u for u in group.tolist() if u not in units.frozen], int)
    order = np.random.default_rng(seed).permutation(units.count).astype(float)
    counts = np.bincount(units.parts[labels][:, 0], minlength=units.count)
    sets = [atom for atom in atoms(free, blocks, order) if counts[atom].sum()]
    if not sets:
        raise PlanError(f"The channels of `{path}` cannot be copied: {why}.")
    width, turn = len(labels), 0
    while width < to:
        atom = sets[turn % len(sets)]
        if width + counts[atom].sum() > to:
            raise PlanError(
                f"`{path}` grows in steps of {counts[atom].sum()} channels, as what it is coupled with repeats them or "
                f"binds them into equal blocks. Expected `to` of {width} or "
                f"{width + counts[atom].sum()}. Received: {to}."
            )
        times[atom] += 1
        width, turn = width + int(counts[atom].sum()), turn + 1
    return times


def _check_statistics(graph: Graph, path: str, times: np.ndarray) -> None:
    per_label = times[graph.units.parts].prod(axis=1)
    for labels, reason in graph.units.sums:
        if (per_label[labels] != 1).any():
            raise PlanError(f"`{path}` cannot grow: {reason}, so a copy would change the result.")
    for labels, reason in graph.units.averages:
        if len(set(per_label[labels].tolist())) > 1:
            raise PlanError(
                f"{reason}, which stay what they are only if each of these {len(labels)} channels has equally many "
                f"copies. Widen `{path}` to a multiple of its present width, if all of them are coupled with it."
            )


def _repeated(graph: Graph, times: np.ndarray, spread: bool) -> Kept:
    """From labels to positions in which the copies of a unit follow it: neighbouring positions of one unit together.

    An axis that merges others, such as that of a Flatten, holds a channel as a run of neighbours, where the channels
    were the outer axis, or at regular distances, where they were the inner one. Both look alike where all positions
    belong to one unit; `spread` says that it is the latter.
    """
    parts, grows = graph.units.parts, times > 1

    def kept(labels: np.ndarray) -> np.ndarray:
        found = parts[labels]
        found = np.where(grows[found], found, 0)
        if not found.any():
            return np.arange(len(labels))
        if ((found != 0).sum(axis=1) > 1).any():
            raise PlanError("Channels that are multiplied with each other cannot be copied. Widen another layer.")
        unit = found.max(axis=1)
        new = np.ones(len(unit), bool)
        if not (spread and (unit == unit[0]).all()):
            new[1:] = (unit[1:] != unit[:-1]) | (unit[1:] == FIXED)
        runs = np.split(np.arange(len(unit)), np.flatnonzero(new)[1:])
        return np.concatenate([np.tile(run, times[unit[run[0]]]) for run in runs])

    return kept


def _ambiguous(graph: Graph, times: np.ndarray) -> bool:
    """Whether neighbours in an array belong to one growing channel."""
    parts = graph.units.parts
    unit = np.where((times > 1)[parts], parts, 0).max(axis=1)
    for call in graph.calls:
        for channels in call.outputs:
            for labels in channels.axes:
                if labels is not None and len(labels) > 1:
                    own = unit[labels]
                    if ((own[1:] == own[:-1]) & (own[1:] != 0)).any():
                        return True
    return False


def _built(graph: Graph, times: np.ndarray):
    """Builds the wider model, with copies in the order that leaves the function unchanged."""
    if not _ambiguous(graph, times):
        kept = _repeated(graph, times, True)
        return (kept, *rebuild(graph, kept))
    for spread in (True, False):
        kept = _repeated(graph, times, spread)
        made, pairs = rebuild(graph, kept)
        found = difference(graph, made)
        if found.relative <= found.allowed:
            return kept, made, pairs
    raise PlanError("The copies of a channel would lie in places that labels do not tell apart. Widen another layer.")


def _add_noise(graph: Graph, kept: Kept, pairs: dict, noise: float, rng: np.random.Generator) -> None:
    for slot in graph.slots:
        variable = pairs[id(slot.variable)][0]
        if len(variable.shape) < 2:
            continue
        for axis, along, labels in slot.tied():
            if not isinstance(along, Out):
                continue
            places = kept(labels)
            if (copies(places) == 1).all():
                continue
            copied = np.ones(len(places), bool)
            copied[np.unique(places, return_index=True)[1]] = False
            value = keras.ops.convert_to_numpy(variable).astype("float64")
            shape = [-1 if i == axis else 1 for i in range(value.ndim)]
            added = rng.normal(0.0, noise * value.std(), value.shape) * copied.reshape(shape)
            variable.assign((value + added).astype("float32" if variable.dtype == "bfloat16" else value.dtype))
