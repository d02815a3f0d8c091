"""What a trained network is for: measured (val), used on images (predict), handed to other programs (export)."""
