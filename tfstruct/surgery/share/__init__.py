"""Several layers as one that is used several times."""
