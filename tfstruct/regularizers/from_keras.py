"""Keras's own regularizers."""

from keras.regularizers import L1, L1L2, L2

__all__ = ["L1", "L1L2", "L2"]
