"""Schemes of `quantize_apply` that keep what earlier training has found."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class QuantizeScheme:
    """8 bits, and what stays as it is while the model trains quantized.

    Attributes:
        keep_zeros: weights that are zero stay zero.
        keep_values: the weights of a kernel have no more distinct values than before.
    """

    keep_zeros: bool = False
    keep_values: bool = False


def Default8BitQuantizeScheme() -> QuantizeScheme:
    """8 bits, nothing kept."""
    return QuantizeScheme()


def Default8BitPrunePreserveQuantizeScheme() -> QuantizeScheme:
    """8 bits; zeros stay (TFMOT's PQAT)."""
    return QuantizeScheme(keep_zeros=True)


def Default8BitClusterPreserveQuantizeScheme(preserve_sparsity: bool = False) -> QuantizeScheme:
    """8 bits; shared values stay shared (CQAT), with `preserve_sparsity` zeros too (PCQAT)."""
    return QuantizeScheme(keep_zeros=preserve_sparsity, keep_values=True)
