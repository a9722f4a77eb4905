"""Files between tiers: places by name, what lies there, and moving it."""
