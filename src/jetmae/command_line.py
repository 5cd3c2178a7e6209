"""How a person types a command of jetmae, for messages that say what to do next."""

import shlex
import sys
from pathlib import Path

SCRIPTS = {"data": "data.py", "runs": "runs.py", "doctor": "doctor.py"}  # of jobs/ in a clone; launch.py has the rest


def typed(command: str, *words: object) -> str:
    """A command such as `data verify`, and paths or options behind it, in the words that work here.

    `jetmae data verify DIR`, or, where a script of a clone was typed, `python jobs/data.py verify DIR`. Words are
    quoted for the shell.
    """
    rest = [shlex.quote(str(word)) for word in words]
    script = Path(sys.argv[0])
    if script.suffix != ".py" or script.parent.name != "jobs":
        return " ".join(["jetmae", command, *rest])
    group, _, name = command.partition(" ")
    file, named = (SCRIPTS[group], name) if group in SCRIPTS else ("launch.py", command)
    return " ".join(["python", shlex.quote(str(script.parent / file)), named, *rest])
