"""Node lists, who this process is, and the only door to Slurm's commands."""
