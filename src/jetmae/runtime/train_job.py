"""For one release: jobs that were queued before the move ask for this module, by name or in submitit's pickle."""

import sys
from pathlib import Path

from jetmae.launch.train_job import CommandJob, TrainJob

__all__ = ["CommandJob", "TrainJob"]

if __name__ == "__main__":
    TrainJob(Path(sys.argv[1]))()
