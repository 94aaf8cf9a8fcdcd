"""A Keras model seen as tensors, operations and coupled channels."""

from tfstruct.graph import opening  # noqa: F401  (its layers are registered for files)
from tfstruct.graph.call import Axes, Call, Channels, Each, In, Out
from tfstruct.graph.groups import Group, groups, stay_whole
from tfstruct.graph.labels import FIXED, Units
from tfstruct.graph.rebuild import Rewired, in_order, kept_by, rebuild, rewire
from tfstruct.graph.rules import is_training_only, rule, training_only
from tfstruct.graph.trace import Graph, fingerprint, trace

__all__ = [
    "FIXED", "Axes", "Call", "Channels", "Each", "Graph", "Group", "In", "Out", "Rewired", "Units",
    "fingerprint", "groups", "in_order", "is_training_only", "kept_by", "rebuild", "rewire", "rule",
    "stay_whole", "trace", "training_only",
]  # fmt: skip
