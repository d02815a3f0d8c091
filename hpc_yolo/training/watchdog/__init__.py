"""Detect a rank that no longer makes progress, and end the attempt."""
