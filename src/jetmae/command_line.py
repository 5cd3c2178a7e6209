"""How a person types a command of jetmae, for messages that say what to do next."""

import sys
from pathlib import Path

SCRIPTS = {"data": "data.py", "runs": "runs.py", "doctor": "doctor.py"}  # of jobs/ in a clone; launch.py has the rest


def typed(command: str) -> str:
    """A command such as `data verify DIR` in the words that work here.

    That is `jetmae data verify DIR`, or, where a script of a clone was typed, `python jobs/data.py verify DIR`.
    """
    script = Path(sys.argv[0])
    if script.suffix != ".py" or script.parent.name != "jobs":
        return f"jetmae {command}"
    word, _, rest = command.partition(" ")
    jobs = script.parent
    return f"python {jobs / SCRIPTS[word]} {rest}" if word in SCRIPTS else f"python {jobs / 'launch.py'} {command}"
