"""Batch norms whose statistics lag behind the weights: measured anew where that leaves more."""

import dataclasses
import math

from tfstruct.compression.outcome import Outcome
from tfstruct.compression.task import Task
from tfstruct.graph.copying import copied
from tfstruct.surgery import recalibrate_batch_norm
from tfstruct.surgery.pruning.batch_norm import batch_norms_of

_MARGIN = 1e-3  # of the loss: what it falls by at least, so that rounding decides nothing


def with_fresh_statistics(task: Task, outcome: Outcome) -> Outcome:
    """What a step made, the moving statistics of its batch norms measured anew on samples of the training data if the
    loss on held-out samples falls by that; the outcome says what was found.

    Statistics lag in short trainings (with momentum 0.99, after 100 steps more than a third is that of the start),
    where channels went, and where a dropout comes before a batch norm. Those of frozen layers stay.
    """
    model = outcome.model if outcome.model is not task.model else copied(outcome.model)
    layers = batch_norms_of(model)
    norms = [layer for layer in layers if layer.trainable]
    if not norms:
        return outcome
    if task.held_out is None:
        why = "statistics of batch norms stay as they are: the samples are too few to hold some out and judge others by"
        return dataclasses.replace(outcome, skipped=[*outcome.skipped, (model.name, why)])
    states = [state for layer in layers for state in (layer.moving_mean, layer.moving_variance)]
    before = [state.numpy() for state in states]
    judged = model if outcome.twin is None else outcome.twin
    loss = task.held_out.loss(judged)
    recalibrate_batch_norm(model, task.some_inputs)
    for layer, mean, variance in zip(layers, before[::2], before[1::2], strict=True):
        if not layer.trainable:
            layer.moving_mean.assign(mean)
            layer.moving_variance.assign(variance)
    anew = task.held_out.loss(judged)
    better = math.isfinite(anew) and not anew > loss - _MARGIN * abs(loss)  # also where the loss was no number
    details = {"loss": loss, "anew": anew, "taken": better, "judged on": str(task.held_out)}
    outcome = dataclasses.replace(outcome, details={**outcome.details, "batch_norms": details})
    if not better:
        for state, value in zip(states, before, strict=True):
            state.assign(value)
        return outcome
    count = f"{len(norms)} batch norm{'s' if len(norms) > 1 else ''}"
    what = f"statistics of {count} measured anew, as they lagged: loss {loss:.4g} -> {anew:.4g} on {task.held_out}"
    return dataclasses.replace(outcome, model=model, changes=[*outcome.changes, (model.name, what)])
