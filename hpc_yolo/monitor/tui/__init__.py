"""The full-screen display of runs."""
