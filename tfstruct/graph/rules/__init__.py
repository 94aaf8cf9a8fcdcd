"""How channels pass through each kind of operation: one rule a function, registered by type."""

from tfstruct.graph.rules import (  # noqa: F401  (each registers its rules)
    applications,
    attention,
    contractions,
    convolutions,
    elementwise,
    indexing,
    movement,
    normalization,
    operations,
    placement,
    recurrent,
)
from tfstruct.graph.rules.noise import is_training_only, training_only
from tfstruct.graph.rules.registry import apply_rule, rule, rule_of

__all__ = ["apply_rule", "is_training_only", "rule", "rule_of", "training_only"]
