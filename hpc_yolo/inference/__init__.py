"""What a trained network is for: measured (val), used on pictures (predict), handed to other programs (export)."""
