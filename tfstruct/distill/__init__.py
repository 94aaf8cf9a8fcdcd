"""A student that learns from a teacher, in `fit` or in a loop of one's own. The names load on first use."""

from tfstruct import lazy

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "Attention": "losses",
        "Distill": "distilling",
        "DistillationReport": "distillation_report",
        "Features": "losses",
        "Logits": "losses",
        "Relational": "losses",
        "Taught": "teacher_cache",
        "cached": "teacher_cache",
    },
)
