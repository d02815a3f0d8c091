"""What runs look like: facts from journals and Slurm (`snapshot`), facts drawn (`view`), a run watched (`follow`)."""
