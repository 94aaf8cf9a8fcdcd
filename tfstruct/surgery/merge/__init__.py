"""Layers that become one: batch norms folded, layers in a row and branches merged."""
