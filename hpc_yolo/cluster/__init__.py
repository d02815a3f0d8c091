"""Everything about Slurm and jobs: commands, their output, batch scripts, jobs of a run, the position of a process."""
