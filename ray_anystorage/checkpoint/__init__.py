"""What makes a set of files a checkpoint: manifests, commit, routing, restore. It knows nothing of Ray."""
