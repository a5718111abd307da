"""The search for the values of a recipe that are best: studies, samplers, workers, rungs of data."""
