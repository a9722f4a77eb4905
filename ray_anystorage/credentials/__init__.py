"""Where credentials come from, and what of them travels to the workers."""
