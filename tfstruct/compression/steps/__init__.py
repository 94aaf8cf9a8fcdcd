"""What a strategy is made of, one kind of step a file."""
