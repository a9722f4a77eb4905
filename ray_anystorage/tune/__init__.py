"""How a plan meets Ray Tune."""
