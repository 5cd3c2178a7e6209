"""For one release: sbatch scripts that were queued before the move ask for `python -m jetmae.supervisor`."""

from jetmae.errors import exit_with_one_line
from jetmae.launch.supervisor import main

if __name__ == "__main__":
    exit_with_one_line(main)
