"""The edits that findings about bottlenecks recommend."""

import keras

from tfstruct.analyze.names import by_name
from tfstruct.errors import ModelError
from tfstruct.graph import Graph, rewire, trace
from tfstruct.reporting import Result
from tfstruct.surgery.edit_report import edited
from tfstruct.surgery.pruning.channels import apply, plan_channels


def prune_group(model: keras.Model, layer: str, to: int) -> Result:
    """Prunes the channels of `layer`, and all that are coupled with it, to `to` channels by `plan_channels`."""
    graph = trace(model)
    named = by_name(graph)
    if layer not in named:
        raise ModelError(f"`{model.name}` has no group of channels `{layer}`. It has {', '.join(list(named)[:12])}.")
    own = named[layer]
    others = [path for path in graph.makes if path not in own.makers]
    plan = plan_channels(model, 1 - to / own.width, exclude=others, scope="local")
    changes = [(path, f"{plan.widths[path]} -> {plan.widths[path] - n} channels") for path, n in plan.removed.items()]
    return edited(graph, apply(model, plan), changes, exact=False)


def reuse(model: keras.Model, layer: str, other: str) -> Result:
    """Deletes `layer`; its consumers read the outputs of `other`, which runs before it."""
    graph, made = trace(model), []

    def keep(step, run, *args, **kwargs):
        made.append(run(*args, **kwargs))
        return made[-1]

    edits = {id(_op(graph, other)): keep, id(_op(graph, layer)): lambda step, run, *args, **kwargs: made[-1]}
    return edited(graph, rewire(graph, edits).model, [(layer, f"replaced by the outputs of {other}")], exact=False)


def _op(graph: Graph, name: str):
    for call in graph.calls:
        if call.path == name:
            return call.op
    raise ModelError(f"`{graph.model.name}` has no layer `{name}`. Apply the finding to a model of the same structure.")
