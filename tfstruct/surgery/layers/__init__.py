"""Layers deleted, inserted, replaced; redundant ones and residual blocks dropped."""
