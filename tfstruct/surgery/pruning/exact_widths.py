"""Which channels go so that layers get exactly the widths that are asked for."""

from collections.abc import Mapping, Sequence

import numpy as np

from tfstruct.errors import PlanError
from tfstruct.graph import Graph, Group
from tfstruct.surgery.pruning.removals import removals_of


def reachable_widths(graph: Graph, group: Group, path: str, scores: np.ndarray) -> dict[int, np.ndarray]:
    """The widths that a layer can have, from its own down, and the units of its group that go for each.

    Args:
        group: that makes the layer's channels.
        path: of the layer, or of what it makes, such as `attention.heads`; one of `group.makers`.
        scores: importance, by unit: the least important go first.
    """
    parts = graph.units.parts[graph.makes[path]]
    gone = np.zeros(graph.units.count, bool)
    found = {len(parts): np.flatnonzero(gone)}
    for removal in removals_of(graph, [group], scores, None, 1, 1.0, (), gone)[0]:
        gone[list(removal.units)] = True
        width = int((~gone)[parts].all(axis=1).sum())
        if width:
            found.setdefault(width, np.flatnonzero(gone))
    return found


def keep_for_widths(graph: Graph, groups: Sequence[Group], scores: np.ndarray, widths: Mapping[str, int]) -> np.ndarray:
    """Boolean mask of the units that stay so that each of these layers has exactly its width; what is coupled with them
    follows, everything else stays.

    Args:
        groups: of the graph.
        scores: importance, by unit.
        widths: path of a layer, or of what it makes, to the number of its channels that stay.

    Raises:
        PlanError: a layer that makes no channels, or none that can go; a width that it cannot have; widths of coupled
            layers that contradict each other.
    """
    keep = np.ones(graph.units.count, bool)
    set_by: dict[int, str] = {}
    for path, width in widths.items():
        group = _group_of(graph, groups, path)
        first = set_by.setdefault(id(group), path)
        if first == path:
            keep[_gone(graph, group, path, width, scores)] = False
        stays = int(graph.units.kept(keep)[graph.makes[path]].sum())
        if stays != width:
            raise PlanError(
                f"`widths` contradict each other: `{path}` is coupled with `{first}`, and has {stays} channels where "
                f"that has {widths[first]}. Expected {stays}, or only one of the two. Received: {width}."
            )
    return keep


def _group_of(graph: Graph, groups: Sequence[Group], path: str) -> Group:
    if path not in graph.makes:
        close = [name for name in graph.makes if name.rsplit("/", 1)[-1] == path] or list(graph.makes)
        raise PlanError(
            f"`widths` names `{path}`, but no layer of that name makes channels. Those that do: "
            f"{', '.join(close[:8])}{', ...' if len(close) > 8 else ''}."
        )
    units = set(graph.units.of(graph.makes[path]).tolist())
    own = [group for group in groups if units & set(group.units.tolist())]
    if len(own) != 1:
        makes = ", ".join(sorted({maker for group in own for maker in group.makers} - {path})) or "no other layer"
        raise PlanError(
            f"`widths` names `{path}`, whose channels belong to {len(own)} groups. Give widths of layers that share "
            f"them instead: {makes}."
        )
    return own[0]


def _gone(graph: Graph, group: Group, path: str, width, scores: np.ndarray) -> np.ndarray:
    whole = len(graph.makes[path])
    if isinstance(width, bool) or not isinstance(width, int | np.integer) or not 1 <= width <= whole:
        raise PlanError(f"The width of `{path}` must be a whole number from 1 to {whole}. Received: {width!r}.")
    if width < whole and not group.prunable:
        raise PlanError(f"`{path}` keeps its {whole} channels: {group.reason}. Leave it out of `widths`.")
    found = reachable_widths(graph, group, path, scores)
    if width not in found:
        near = sorted(found, key=lambda other: (abs(other - width), other))[:4]
        why = f" ({group.reason})" if group.reason else ""
        raise PlanError(
            f"`{path}` cannot have {width} channels: they go together, or some have to stay{why}. The nearest widths "
            f"that it can have: {', '.join(map(str, sorted(near)))}."
        )
    return found[int(width)]
