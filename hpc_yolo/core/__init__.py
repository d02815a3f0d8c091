"""Errors, files, units and text for people: what every other package uses."""
