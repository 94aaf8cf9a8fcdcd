"""Rounding weights to few bits so that a layer's output, not its weights, changes least."""

import numpy as np

# Inputs that are rounded before the others hear of it: a pass over all weights for each input takes ten times as long.
_BLOCK = 128
# With more inputs than these, only the scales that the Hessian's diagonal prefers are judged by all of it.
_MANY_INPUTS, _PREFERRED = 640, 6
_CHUNK = 1 << 15  # weights: what is made of them stays in the cache


def largest_bias(bits: int) -> float:
    """The largest integer that a bias may be beside weights of so many bits.

    It is stored in 32 bits, of which the larger half is left to the sum that it is added to; kernels for 4-bit weights
    on processors with AVX-512 compute with 16 times weights and bias.
    """
    return 2.0**30 if bits > 4 else 2.0**26


def symmetric_scale(
    weights: np.ndarray, hessian: np.ndarray | None, bits: int, steps: int = 60, least: float = 0.3
) -> np.ndarray:
    """Chooses one scale an output channel so that rounding to nearest changes the layer's output least.

    For channel o with weights w and q = clip(round(w/s), -Q, Q), Q = 2^(bits-1) - 1, it takes the s among
    `steps` candidates from `least` times max|w|/Q upwards that minimises (s q - w) H (s q - w)^T. No candidate
    is so large that max|w| rounds below Q: the largest |q| is Q, and s can be read off the rounded weights. With many
    inputs only the candidates that the diagonal of H likes best are judged by all of H.

    Args:
        weights: (outputs, inputs).
        hessian: (inputs, inputs), the mean of x x^T over inputs x of the layer; its diagonal (inputs,) where
            the full matrix is too large; None for the plain squared error of the weights.
        bits: width of the integers.

    Returns:
        (outputs,), positive; 1 for a channel that is all zero.
    """
    top = 2 ** (bits - 1) - 1
    weights = weights.astype(np.float64)
    widest = np.abs(weights).max(axis=1) / top
    widest[widest == 0] = 1.0
    # The full range comes first: where nothing depends on a channel, it stays whole.
    factors = np.array([1.0, *np.linspace(least, top / (top - 0.499), steps)])
    candidates = np.broadcast_to(factors[:, None], (len(factors), len(weights)))
    if hessian is not None and hessian.ndim == 2 and len(hessian) > _MANY_INPUTS:
        diagonal, small = np.diag(hessian).astype(np.float32), weights.astype(np.float32)
        losses = np.stack([_loss(small, (widest * c).astype(np.float32), top, diagonal) for c in candidates])
        candidates = factors[np.argsort(losses, axis=0, kind="stable")[:_PREFERRED]]
    best, scale = np.full(len(weights), np.inf), widest.copy()
    for factor in candidates:
        loss = _loss(weights, widest * factor, top, hessian)
        better = loss < best
        best[better], scale[better] = loss[better], (widest * factor)[better]
    return scale


def _loss(weights: np.ndarray, scale: np.ndarray, top: int, hessian: np.ndarray | None) -> np.ndarray:
    """(outputs,): the squared error that rounding to nearest leaves, weighted by the Hessian."""
    whole = hessian is not None and hessian.ndim == 2
    errors, losses = np.empty_like(weights) if whole else None, np.empty(len(weights), weights.dtype)
    step = max(_CHUNK // max(weights.shape[1], 1), 1)
    for start in range(0, len(weights), step):
        rows = slice(start, start + step)
        error = weights[rows] / scale[rows, None]
        np.clip(np.round(error, out=error), -top, top, out=error)
        error *= scale[rows, None]
        error -= weights[rows]
        if errors is not None:
            errors[rows] = error
        else:
            np.square(error, out=error)
            losses[rows] = error.sum(axis=1) if hessian is None else error @ hessian
    return losses if errors is None else np.einsum("oi,oi->o", errors @ hessian, errors)


def nearest(weights: np.ndarray, scale: np.ndarray, bits: int) -> np.ndarray:
    """q = clip(round(w / s), -Q, Q) with Q = 2^(bits-1) - 1, one scale an output channel; float64 integers."""
    top = 2 ** (bits - 1) - 1
    return np.clip(np.round(weights / scale[:, None]), -top, top)


def gptq(weights: np.ndarray, hessian: np.ndarray, scale: np.ndarray, bits: int, damping: float = 0.01) -> np.ndarray:
    """Rounds one input after the other and lets the inputs still to come make up for the error.

    With H = mean(x x^T) + damping mean(diag H) I and U the upper Cholesky factor of H^-1, for inputs i in
    order of falling H_ii: q_i = clip(round(w_i / s)), then w_j -= (w_i - s q_i) U_ij / U_ii for all j > i; for those
    outside of a block of inputs at its end, by one product.

    Source: Frantar et al. 2022, "GPTQ", Algorithm 1, arXiv:2210.17323, with its "act-order".

    Args:
        weights: (outputs, inputs).
        hessian: (inputs, inputs).
        scale: (outputs,).

    Returns:
        The integers q, (outputs, inputs), float64; the new weights are scale[:, None] * q. A channel whose
        largest |q| would fall below Q is rounded to nearest instead, so that s stays max|s q| / Q.
    """
    top = 2 ** (bits - 1) - 1
    size = weights.shape[1]
    # An input that is always zero has no say; the damping alone keeps H positive definite there.
    damped = hessian + np.eye(size) * max(damping * np.trace(hessian) / size, 1e-12)
    order = np.argsort(-np.diag(hessian), kind="stable")
    work = np.ascontiguousarray(weights.astype(np.float64).T[order])  # an input's weights lie beside each other
    upper = _inverse_root(damped[np.ix_(order, order)])
    out, error = np.empty_like(work), np.empty_like(work)
    for start in range(0, size, _BLOCK):
        end = min(start + _BLOCK, size)
        for i in range(start, end):
            out[i] = np.clip(np.round(work[i] / scale), -top, top)
            error[i] = (work[i] - out[i] * scale) / upper[i, i]
            work[i + 1 : end] -= upper[i, i + 1 : end, None] * error[i]
        work[end:] -= upper[start:end, end:].T @ error[start:end]
    out = out[np.argsort(order)].T
    short = np.abs(out).max(axis=1) < top
    out[short] = nearest(weights[short], scale[short], bits)
    return out


def _inverse_root(matrix: np.ndarray) -> np.ndarray:
    """U with U^T U = matrix^-1, upper triangular, of a symmetric positive definite matrix.

    With the rows and columns of H in reverse, H = A A^T for an upper triangular A, whose inverse is U: a third of the
    work of inverting H.
    """
    return _inverse_of_upper(np.linalg.cholesky(matrix[::-1, ::-1])[::-1, ::-1])


def _inverse_of_upper(upper: np.ndarray) -> np.ndarray:
    """Of an upper triangular matrix, by halves."""
    half = len(upper) // 2
    if half < 32:
        return np.linalg.inv(upper) if len(upper) else upper
    found = np.zeros_like(upper)
    first, last = _inverse_of_upper(upper[:half, :half]), _inverse_of_upper(upper[half:, half:])
    found[:half, :half], found[half:, half:] = first, last
    found[:half, half:] = -first @ upper[:half, half:] @ last
    return found
