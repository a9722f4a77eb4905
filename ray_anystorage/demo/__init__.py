"""Two real training runs on stand-ins for the storage of a platform, with a failure in each."""
