"""Masked auto-encoder pretraining on particle-jet images, as batch jobs on Slurm clusters."""
