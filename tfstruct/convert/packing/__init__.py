"""Models in the fewest bytes for transport, restored bit by bit."""
