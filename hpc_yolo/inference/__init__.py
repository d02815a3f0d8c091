"""Use of a trained model: evaluation (val), detection (predict), other programs (export)."""
