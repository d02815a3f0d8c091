"""The command line: one short file a command. Torch and submitit are imported inside the functions that need them."""
