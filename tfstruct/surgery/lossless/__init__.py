"""`shrink`: what has no effect goes."""
