"""Model files: those of this project and published ones, read without executing their content."""
