"""Losses of the detection heads."""
