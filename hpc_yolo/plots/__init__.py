"""Charts and images of what training and evaluation found, as files."""
