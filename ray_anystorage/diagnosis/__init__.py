"""Trying places for real: what a run needs before it starts, and what the doctor wants to know."""
