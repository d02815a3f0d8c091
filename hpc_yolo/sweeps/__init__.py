"""Sweeps: values from a search space, the curves of the trials, and the rules that end trials early."""
