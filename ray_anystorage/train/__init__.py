"""How a plan meets Ray Train: a RunConfig, a StorageContext and callbacks."""
