"""Charts and pictures of what training and evaluation found, as files."""
