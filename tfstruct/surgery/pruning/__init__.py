"""Which channels go, and the smaller model."""
