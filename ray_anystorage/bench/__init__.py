"""How fast storage is where a run would use it, what bounds it, and what that means for a larger cluster."""
