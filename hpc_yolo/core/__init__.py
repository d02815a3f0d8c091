"""Errors, files, units and text, used by every other package."""
