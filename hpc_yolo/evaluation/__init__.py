"""How good a detector is: non-maximum suppression, metrics, and a pass over the validation pictures of all ranks."""
