"""The methods of factorization by name, and which kernels each has factors for."""

import math

import numpy as np

from tfstruct.surgery.factor.canonical import CP
from tfstruct.surgery.factor.factors import Factors
from tfstruct.surgery.factor.singular_values import SVD, Depthwise, Spatial
from tfstruct.surgery.factor.tucker import Tucker

_METHODS = {"svd": SVD, "tucker": Tucker, "cp": CP, "spatial": Spatial, "depthwise": Depthwise}
METHODS = tuple(_METHODS)


def factors_of(kernel: np.ndarray, method: str) -> Factors | str:
    """The factorization of a kernel by a method, or the reason why the method does not apply to its shape."""
    taps = kernel.shape[:-2]
    if not np.isfinite(kernel).all():
        return "its kernel holds values that are not finite"
    if math.prod(taps) == 1:
        # A matrix: its Tucker and CP forms are its singular values.
        return SVD(kernel) if method in ("svd", "tucker", "cp") else f"{method} needs a kernel of several taps"
    if method in ("cp", "depthwise") and len(taps) > 2:
        return f"Keras has no depthwise convolution over {len(taps)} axes"
    if method == "spatial" and (len(taps) != 2 or 1 in taps):
        return "spatial needs a kernel of several rows and columns"
    return _METHODS[method](kernel)
