"""The benchmark in the driver: who takes part, what is measured in which order."""
