"""`drop_blocks`: removes whole residual blocks, the least important first."""

import difflib
import math
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfstruct.analyze.data_criteria import run, structured
from tfstruct.analyze.inference import batches_for, in_inference
from tfstruct.analyze.losses import loss_function, slices
from tfstruct.arguments import checked_but
from tfstruct.errors import DataError, ModelError, PlanError
from tfstruct.graph import Graph, in_order, open_and_trace, rewire
from tfstruct.graph.layer_tree import states_kept
from tfstruct.reporting import Result
from tfstruct.samples import Samples
from tfstruct.samples.for_model import samples_of
from tfstruct.surgery.edit_report import edited
from tfstruct.surgery.layers.places import Place
from tfstruct.surgery.layers.residuals import Block, found_blocks

_Found = dict[str, tuple[Block, Place]]


@checked_but("count")
@in_inference
def drop_blocks(
    model: keras.Model,
    data=None,
    labels=None,
    *,
    count: int | None = None,
    ratio: float | None = None,
    criterion: "str | Callable[[keras.Model], float]" = "cosine",
    blocks: str | Sequence[str] | None = None,
    loss=None,
    batch_size: int = 32,
    open_layers: str | bool = "auto",
) -> Result:
    """Drops the branches of the least important residual blocks: what follows reads the shortcut alone.

    Importance of a block with shortcut s and output y = s + branch:

    - `"cosine"`: `1 - mean of <s, y> / (||s|| ||y||)`, over samples and positions, the vectors along the last axis. 0
      is a block that only scales what it gets. It is the block influence of ShortGPT (Eq. 1, arXiv:2403.03853); for a
      projection shortcut, s is the projection, which is what stays.
    - `"loss"`: the loss without the block, less that of the whole model. Negative where the block does harm.
    - a function `model without the block -> importance`, such as one minus its accuracy.

    All blocks are ranked once, each missing alone; ties go to the earlier block. The new model is not trained: a few
    epochs bring most of its accuracy back.

    Args:
        model: a Sequential or functional model, also nested; not changed.
        data: samples for `"cosine"` and `"loss"`: arrays, a pair (x, y), a `tf.data.Dataset` or a generator.
        labels: for `"loss"`, where `data` does not hold them.
        count: how many blocks go.
        ratio: the share of the blocks that goes, in (0, 1], rounded. One of `count` and `ratio`.
        criterion: see above.
        blocks: the blocks that may go, by the path of their Add; see `residual_blocks`. Without `count` and `ratio` all
            of them go, and nothing is ranked.
        loss: for `"loss"`; by default the one the model is compiled with.
        open_layers: `"auto"`: custom layers are opened first (`tfstruct.surgery.open_layers`); False: none is.

    Returns:
        `Result`; in `details` the `importance` by block, their `order` from the least important on, those `dropped`.

    Raises:
        ModelError: the model has no residual block, or its graph cannot be walked.
        PlanError: a block that is not there or cannot go; `count` or `ratio` out of range.
        DataError: data or a loss that the criterion needs is missing or does not fit.

    Example:
        >>> edited = tfstruct.surgery.drop_blocks(convnet, images, count=1)
        >>> "branch" in [layer.name for layer in edited.model.layers]
        False
    """
    graph = open_and_trace(model, open_layers=open_layers)
    every = {block.join: (block, place) for block, place in found_blocks(graph)}
    chosen = _chosen(graph, every, blocks)
    number = _number(count, ratio, len(chosen), blocks is not None)
    importance: dict[str, float] = {}
    if blocks is None or count is not None or ratio is not None:
        importance = _importance(graph, chosen, criterion, data, labels, loss, batch_size)
    order = sorted(chosen, key=lambda join: importance.get(join, 0.0))
    dropped = [join for join in chosen if join in order[:number]]
    made = _without(graph, [chosen[join] for join in dropped])
    changes = [(join, _drop_line(chosen[join][0], importance.get(join))) for join in dropped]
    skipped = [(join, block.obstacle) for join, (block, _) in every.items() if block.obstacle and blocks is None]
    details = {
        "criterion": (criterion if isinstance(criterion, str) else _called(criterion)) if importance else None,
        "importance": importance,
        "order": order if importance else [],
        "dropped": dropped,
    }
    return edited(graph, made, changes, skipped, exact=False, details=details)


def _chosen(graph: Graph, every: _Found, blocks) -> _Found:
    name = graph.model.name
    free = {join: pair for join, pair in every.items() if not pair[0].obstacle}
    if not free:
        why = "".join(f" {join}: {block.obstacle}." for join, (block, _) in every.items())
        raise ModelError(
            f"`{name}` has no residual block that can be dropped: an Add of a shortcut and a branch made from it.{why}"
        )
    if blocks is None:
        return free
    wanted = [blocks] if isinstance(blocks, str) else list(blocks)
    if not wanted:
        raise PlanError("Expected at least one block. Received an empty list.")
    for join in wanted:
        if join not in every:
            close = difflib.get_close_matches(str(join), list(every), 3, 0.5)
            hint = f"Did you mean {' or '.join(close)}?" if close else f"It has {', '.join(list(every)[:6])}."
            raise PlanError(f"`{name}` has no residual block {join}; blocks are named after their Add. {hint}")
        if join not in free:
            raise PlanError(f"The block {join} cannot be dropped: {every[join][0].obstacle}.")
    return {join: pair for join, pair in free.items() if join in wanted}


def _number(count, ratio, blocks: int, listed: bool) -> int:
    if count is not None and ratio is not None:
        raise PlanError("Expected one of `count` and `ratio`. Received both.")
    if count is not None:
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or not 1 <= count <= blocks:
            raise PlanError(f"`count` must be an integer from 1 to {blocks}, the blocks there are. Received: {count}.")
        return int(count)
    if ratio is not None:
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio <= 1:
            raise PlanError(f"`ratio` must be in (0, 1]. Received: {ratio}.")
        if round(ratio * blocks) < 1:
            raise PlanError(f"A ratio of {ratio:g} is less than one of {blocks} blocks. Give {1 / blocks:.2g} or more.")
        return round(ratio * blocks)
    if not listed:
        raise PlanError("Expected `count`, `ratio` or `blocks`: how many blocks go, or which. Received none of them.")
    return blocks


def _importance(graph: Graph, chosen: _Found, criterion, data, labels, loss, batch_size) -> dict[str, float]:
    if callable(criterion):
        found = {join: float(criterion(_without(graph, [pair]))) for join, pair in chosen.items()}
    elif criterion == "cosine":
        found = _cosine(graph, chosen, _samples(graph, data, None, criterion), batch_size)
    elif criterion == "loss":
        whole = _samples(graph, data, labels, criterion, "criterion='loss' needs labels").in_memory()
        found = _losses(graph, chosen, whole.inputs, whole.labels, loss, batch_size)
    else:
        raise PlanError(
            f"`criterion` must be 'cosine', 'loss', or a function from the model without a block to its importance. "
            f"Received: {criterion!r}."
        )
    for join, value in found.items():
        if math.isnan(value):
            raise DataError(f"The importance of the block {join} is not a number. Look for such values in the data.")
    return found


def _samples(graph: Graph, data, labels, criterion: str, need: str | None = None) -> Samples:
    if data is None:
        raise DataError(f"criterion='{criterion}' needs samples. Give data=..., or a function as criterion.")
    return samples_of(graph.model, data, labels, need=need)


def _cosine(graph: Graph, chosen: _Found, samples: Samples, batch_size: int) -> dict[str, float]:
    joins = {
        id(visit.step): (join, visit.step.inputs[block.shortcut].key)
        for join, (block, place) in chosen.items()
        for visit in place.visits
    }
    wanted = {key for _, key in joins.values()}
    total, seen = dict.fromkeys(chosen, 0.0), dict.fromkeys(chosen, 0)
    for found in batches_for(graph.model, samples, batch_size):
        batch = [keras.ops.convert_to_tensor(x) for x in found.inputs]
        values = {c.key: x for c, x in zip(graph.body.inputs, batch, strict=True)}

        def visit(call, outputs, values=values):
            values.update({c.key: x for c, x in zip(call.outputs, outputs, strict=True) if c.key in wanted})
            if id(call) in joins:
                join, shortcut = joins[id(call)]
                alike = _alike(*(keras.ops.convert_to_numpy(x) for x in (values[shortcut], outputs[0])))
                total[join] += float(alike.sum())
                seen[join] += alike.size

        run(graph, batch, visit)
    return {join: 1.0 - total[join] / seen[join] for join in chosen}


def _alike(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine similarity of vectors along the last axis; 1 if both are zero."""
    a, b = a.astype("float64"), b.astype("float64")
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    cosine = (a * b).sum(-1) / np.where(norms == 0, 1.0, norms)
    return np.where(norms == 0, (a == b).all(-1), cosine)


def _losses(graph: Graph, chosen: _Found, inputs, labels, loss, batch_size: int) -> dict[str, float]:
    measure = loss_function(graph.model, loss, "criterion='loss'")

    def mean(model) -> float:
        total, samples = 0.0, len(inputs[0])
        with states_kept(model):
            for part in slices(samples, batch_size):
                x = structured(graph, [keras.ops.convert_to_tensor(one[part]) for one in inputs])
                y = keras.tree.map_structure(lambda one, part=part: one[part], labels)
                try:
                    value = float(measure(y, model(x, training=False)))
                except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
                    line = str(error).splitlines()[0]
                    raise DataError(f"The loss cannot be computed with these labels: {line}") from error
                total += value * len(inputs[0][part])
        return total / samples

    whole = mean(graph.model)
    return {join: mean(_without(graph, [pair])) - whole for join, pair in chosen.items()}


def _without(graph: Graph, dropped: list[tuple[Block, Place]]) -> keras.Model:
    """Builds the model without the branches of these blocks."""
    return rewire(graph, {id(place.op): _shortcut(block, place) for block, place in dropped}).model


def _shortcut(block: Block, place: Place):
    ends = any(x is y for v in place.visits for x in v.outputs for y in v.body.functional.outputs)

    def edit(step, run, *args, **kwargs):
        x = in_order(args, kwargs)[block.shortcut]
        # An output keeps its name, and a nested model something to do.
        return keras.layers.Identity(name=place.op.name, dtype=x.dtype)(x) if ends else x

    return edit


def _drop_line(block: Block, importance: float | None) -> str:
    count = len(block.branch)
    line = f"branch of {count} layer{'' if count == 1 else 's'} dropped, {block.kind} shortcut kept"
    return line if importance is None else f"{line} (importance {importance:.3g})"


def _called(criterion) -> str:
    return getattr(criterion, "__name__", type(criterion).__name__)
