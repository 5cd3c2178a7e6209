"""Looking at runs from outside: what their folders and Slurm say. Nothing here changes a run."""
