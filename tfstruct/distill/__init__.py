"""A student that learns from a teacher, in `fit` or in a loop of one's own. The names load on first use.

- `losses.py`: what shall be alike, by the protocol of `keras.distillation`: class probabilities, values, attention,
  relations
- `class_scores.py`: what outputs are (logits, softmax, sigmoid), and all of them as logits
- `layer_pairs.py`: which layers are compared; their channels picked by a plan, or mapped by a learned layer
- `distilling.py`, `distillation_report.py`: `Distill`: `model.compute_loss` with the teacher in it; what it did
- `teacher_cache.py`: `cached`: the teacher's outputs on disk, a row a sample, with the sample's hash
"""

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
        "TeacherTargets": "teacher_cache",
        "cached": "teacher_cache",
    },
)
