"""Trackers of experiments, which get the values of a run from its journal."""
