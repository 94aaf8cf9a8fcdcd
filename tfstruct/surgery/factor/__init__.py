"""`factorize`: kernels as products of smaller ones."""
