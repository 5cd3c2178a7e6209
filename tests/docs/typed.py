"""A command as the documentation gives it: does it exist, and do all of its options and settings?"""

import re
import shlex
from functools import cache
from pathlib import Path

from jetmae.config import TASKS, load_experiment
from jetmae.presets import FOLDER
from jetmae.studies.protocol import load_protocol
from jetmae.studies.study import planned_stages
from tests.conftest import PROJECT, succeed, type_command

TOOLS = {"source", "mkdocs", "pre-commit"}  # that are not ours
SCRIPT_OF = dict.fromkeys((*TASKS, "chain", "study"), "launch.py")  # jetmae's subcommands that are no name of a script
PLACEHOLDER = re.compile(r"\[?[A-Z]+(=[A-Z]+)?(\.\.\.)?\]?")  # RUN, DIR, KEY=VALUE, RUN...


def check(command: str) -> None:
    """Fail unless the command is one of ours, with options and settings that exist."""
    words = words_of(command)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (PROJECT / "Makefile").read_text(), re.MULTILINE), f"no target {words[1]}"
    elif words[0] in ("bash", "sbatch"):
        assert (PROJECT / words[1]).is_file(), f"no file {words[1]}"
    elif words[:2] == ["python", "-m"]:
        check_module(words[2:])
    elif words[0] == "python" or words[0] == "jetmae":
        check_script(*ours(words))
    else:
        assert words[0] in TOOLS, f"unknown command: {command}"


def words_of(command: str) -> list[str]:
    """The words of a command, of the inner one in `run=$(...)`."""
    inner = re.fullmatch(r"\w+=\$\((.*)\)", command)
    return shlex.split(inner[1] if inner else command, comments=True)


def task_of(command: str) -> str | None:
    """What a command trains, if it is one that does."""
    words = words_of(command)
    is_ours = words[0] == "jetmae" or words[1:2] == ["jobs/launch.py"]
    return ours(words)[1][0] if is_ours and ours(words)[0] == "launch.py" else None


def ours(words: list[str]) -> tuple[str, list[str]]:
    """(script, words) of `jetmae words...`, or of `python jobs/SCRIPT words...`, the same command in a clone."""
    if words[0] == "python":
        assert words[1].startswith("jobs/"), f"unknown script: {words[1]}"
        return words[1].removeprefix("jobs/"), words[2:]
    script = SCRIPT_OF.get(words[1], f"{words[1]}.py")
    return script, words[1:] if words[1] in SCRIPT_OF else words[2:]


def check_module(words: list[str]) -> None:
    if words[0] == "pytest":
        assert all((PROJECT / word).exists() for word in words[1:] if not word.startswith("-"))
    else:
        assert (PROJECT / words[0].replace(".", "/") / "__main__.py").is_file(), f"no module {words[0]}"


def check_script(script: str, words: list[str]) -> None:
    """The subcommand exists, and its help knows every option; settings of a launch make an experiment."""
    subcommand = [] if not words or words[0].startswith("-") else words[:1]
    if subcommand:
        assert re.search(rf"\b{words[0]}\b", help_of(script)), f"{script} has no command {words[0]}"
    known = help_of(script, *subcommand) + help_of(script)
    for option in (word.partition("=")[0] for word in words if word.startswith("-")):
        assert names_option(known, option), f"{script} {words[0]} has no option {option}"
    if script == "launch.py":
        check_settings(words)


def is_option(option: str) -> bool:
    """Whether some command has it."""
    subcommands = {"data.py": ("simulate", "convert", "stats"), "runs.py": ("logs", "report", "tensorboard", "goodput")}
    helps = [help_of(script) for script in ("launch.py", "doctor.py")]
    helps += [help_of(script, name) for script, names in subcommands.items() for name in names]
    return any(names_option(known, option) for known in helps)


def names_option(known: str, option: str) -> bool:
    return re.search(rf"(?<![\w-]){option}(?![\w-])", known) is not None


@cache
def help_of(script: str, *words: str) -> str:
    return succeed(type_command(script, *words, "--help")).stdout


def check_settings(words: list[str]) -> None:
    """Every `section.key=value` of a launch command is one; in a chain, of the task that it is for."""
    task, config = words[0], words[words.index("--config") + 1] if "--config" in words else "small"
    settings = [word for word in words[1:] if is_setting(word, after=words[words.index(word) - 1])]
    if task == "study" and len(words) == 1:
        return
    if task == "study":
        config = config if (FOLDER / "study" / f"{config}.yaml").is_file() else words[1]
        assert planned_stages(load_protocol(words[1], config, settings), PROJECT / "runs")
        return
    for of_task in TASKS if task == "chain" else (task,):
        others = tuple(f"{other}." for other in TASKS if other != of_task)
        own = [word.removeprefix(f"{of_task}.") for word in settings if not word.startswith(others)]
        start = ["init_from=RUN"] if of_task in ("finetune", "probe") else []
        load_experiment(of_task, config, [*start, *own])


def is_setting(word: str, *, after: str) -> bool:
    """Whether a word is a setting, and not an option or what follows one."""
    follows_option = after in ("--array", "--sbatch")
    return "=" in word and not word.startswith("-") and not follows_option and not PLACEHOLDER.fullmatch(word)


def plan(command: str, *, sample: Path, runs: Path, on_slurm: bool) -> str:
    """What a launch command prints with `--dry-run`, on the shipped sample in the place of its data."""
    words = [word for word in ours(words_of(command))[1] if word not in ("--freeze", "--dry-run")]
    words = [word for word in words if not word.startswith("data.path=")]
    cluster = [] if "--cluster" in words else ["--cluster", "slurm" if on_slurm else "local"]
    where = (f"data.path={sample}", "--runs-dir", runs, "--dry-run")
    return succeed(type_command("launch.py", *words, *cluster, *where)).stdout
