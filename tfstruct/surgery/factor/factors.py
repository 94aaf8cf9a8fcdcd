"""Base of all factorizations of a kernel into smaller ones, in NumPy.

A kernel has the shape (*taps, in, out); a dense layer's has no taps. Errors are squared Frobenius norms in float64.
"""

import dataclasses
import math

import numpy as np

Rank = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class FactorLayer:
    """One of the layers that replace a factorized layer.

    Attributes:
        suffix: of its name; empty for the last.
        kernel: shape, in Keras's order; a depthwise one's is (*taps, in, multiplier).
        axes: the spatial axes that it slides over: there it takes the layer's stride, dilation and padding.
        depthwise: whether it sums over taps alone.
    """

    suffix: str
    kernel: tuple[int, ...]
    axes: tuple[int, ...] = ()
    depthwise: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.kernel)


class Factors:
    """A kernel and its factors of any rank.

    Attributes:
        kernel, norm2: W, and ||W||_F^2.
        full: the largest rank there is sense in.
    """

    full: Rank

    def __init__(self, kernel: np.ndarray):
        self.kernel = kernel
        self.norm2 = squares(kernel)

    @property
    def ones(self) -> tuple[int, ...]:
        """Kernel size 1 along each spatial axis."""
        return (1,) * (self.kernel.ndim - 2)

    @property
    def space(self) -> tuple[int, ...]:
        return tuple(range(self.kernel.ndim - 2))

    def ranks(self) -> list[Rank]:
        """The ranks that are tried to meet a budget."""
        return [(r,) for r in range(1, self.full[0] + 1)]

    def stages(self, rank: Rank) -> list[FactorLayer]:
        raise NotImplementedError

    def error2(self, rank: Rank) -> float:
        """||W - W'||_F^2, or an upper bound of it."""
        raise NotImplementedError

    def smallest(self, allowed: float) -> Rank | None:
        """The smallest rank whose `error2` is at most `allowed`; None if there is none."""
        return next((rank for rank in self.ranks() if self.error2(rank) <= allowed), None)

    def larger(self, rank: Rank) -> Rank | None:
        """The next larger rank, used if rounding made the error exceed its limit; None at full rank."""
        grown = tuple(min(r + 1, most) for r, most in zip(rank, self.full, strict=True))
        return None if grown == rank else grown

    def kernels(self, rank: Rank) -> list[np.ndarray]:
        """The kernels of `stages(rank)`."""
        raise NotImplementedError

    def restored(self, kernels: list[np.ndarray]) -> np.ndarray:
        """W', the kernel that the factors make."""
        raise NotImplementedError

    def relative_error(self, kernels: list[np.ndarray]) -> float:
        """||W - W'||_F / ||W||_F, measured on the factors as they are stored."""
        if not self.norm2:
            return 0.0
        return math.sqrt(squares(self.kernel, self.restored(kernels)) / self.norm2)


def squares(a: np.ndarray, b: np.ndarray | None = None) -> float:
    """sum (a - b)^2 in float64, a slice at a time."""
    a = a.reshape(-1)
    b = None if b is None else b.reshape(-1)
    total = 0.0
    for i in range(0, a.size, 1 << 20):
        part = a[i : i + (1 << 20)].astype(np.float64)
        if b is not None:
            part -= b[i : i + (1 << 20)]
        total += float(part @ part)
    return total


def principal(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right singular vectors as columns, the largest first, and squared singular values: of one matrix or a stack.

    By the eigenvectors of A^T A in float64, exact to float64's rounding of the largest one's square.
    """
    wide = matrix.astype(np.float64)
    values, vectors = np.linalg.eigh(np.swapaxes(wide, -1, -2) @ wide)
    return vectors[..., ::-1], np.maximum(values[..., ::-1], 0.0)


def tails(values: np.ndarray) -> np.ndarray:
    """Entry r: sum of all but the first r values; the last entry is zero."""
    return np.append(np.cumsum(values[::-1])[::-1], 0.0)
