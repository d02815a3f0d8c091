"""Evaluation of a detector: non-maximum suppression, metrics, and a pass over the validation images of all ranks."""
