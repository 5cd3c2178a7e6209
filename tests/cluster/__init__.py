"""A real multi-node Slurm on one machine, and the tests that need one.

`python -m tests.cluster up` gives a shell in which sinfo, sbatch and squeue work; nothing is installed or left behind.
"""
