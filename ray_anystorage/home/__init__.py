"""The home of a run on a mount: a file system that Ray takes for local, and that never leaves half a file."""
