"""Charts and images of training and evaluation, as files."""
