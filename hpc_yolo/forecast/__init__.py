"""What a run will take, computed from measured runs: time, attempts, and what to request. Pure but for `similar`."""
