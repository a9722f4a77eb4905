"""What a node of a benchmark does: raw limits, saves and restores, each measured."""
