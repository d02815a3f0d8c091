"""Watching runs: facts from journals and Slurm (`snapshot`), columns and screens (`columns`, `tui`), `follow`."""
