"""Stop signals, the lease, the end of an attempt and what follows it."""
