"""Inference with trained models: evaluation (val), detection (predict), export to other formats (export)."""
