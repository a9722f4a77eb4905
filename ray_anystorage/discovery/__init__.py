"""Finds out what the tiers of storage really are on this node, and which runs live there already."""
