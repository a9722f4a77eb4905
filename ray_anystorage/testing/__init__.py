"""Real servers on loopback, for this package's tests and its demo."""
