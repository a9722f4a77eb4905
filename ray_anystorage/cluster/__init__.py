"""What only a connected Ray cluster can tell."""
