"""Quantization as mathematics: scales and rounding of weights."""
