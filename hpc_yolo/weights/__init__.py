"""Networks on disk: our own files and published ones, read without running a byte of them."""
