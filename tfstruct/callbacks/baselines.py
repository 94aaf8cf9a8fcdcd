"""What figures of a run are compared with: the loss of a constant answer, the steps until batch norms have settled."""

import math

import keras
import numpy as np

from tfstruct.graph.layer_tree import layer_paths


def constant_answer(loss, labels) -> tuple[float | None, float]:
    """(loss of the best constant answer or None, spread of the targets): entropy and 1 for classes."""
    flat = keras.tree.flatten(labels)
    if len(flat) != 1:
        return None, 1.0
    y = np.asarray(flat[0])
    name = getattr(loss, "name", None) or getattr(loss, "__name__", None) or str(loss)
    if "crossentropy" not in name:
        spread = float(np.std(y)) if np.issubdtype(y.dtype, np.floating) else 1.0
        return None, spread if spread > 0 and math.isfinite(spread) else 1.0
    if "binary" in name or not (np.issubdtype(y.dtype, np.integer) or np.ndim(y) > 1):
        return None, 1.0
    classes = y.reshape(-1) if "sparse" in name else y.reshape(-1, y.shape[-1]).argmax(-1)
    share = np.unique(classes, return_counts=True)[1] / len(classes)
    return float(-(share * np.log(share)).sum()), 1.0


def settling_steps(model) -> float:
    """Steps after which 1 % is left of what batch norm's moving statistics began with."""
    norms = [one for one in layer_paths(model).values() if isinstance(one, keras.layers.BatchNormalization)]
    return max((math.log(0.01) / math.log(one.momentum) for one in norms if 0 < one.momentum < 1), default=0.0)


def lagging_statistics(model, steps: int, since: str) -> list[str]:
    """In a sentence, that moving statistics of batch norms lag behind the weights; none if they do not.

    Args:
        steps: of training since what they should follow.
        since: what that was, in words, such as "training began".
    """
    settled = settling_steps(model)
    if not 0 < steps < settled:
        return []
    left = 0.01 ** (steps / settled)
    return [
        f"Statistics of batch norms lag behind: {left:.0%} of them are from before {since}, {steps} steps ago. "
        "surgery.recalibrate_batch_norm(model, x) measures them anew."
    ]
