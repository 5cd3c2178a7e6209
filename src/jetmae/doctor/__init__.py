"""What can be found wrong before a job waits in the queue.

Checks of the machine, the cluster, the storage, the data, and, with a short job, of all ranks together.

    examination  everything, in its order
    verdict      one line of the answer
    machine      Python, its packages, this host
    cluster      what Slurm offers, against what is asked for
    storage      the run folder's file system
    dataset      the data folder
    ranks        what every rank of the short job does
    job          wait for that job, and collect what its ranks wrote
    results      what that means
"""
