"""Slurm's programs run in an environment of ours: what was typed counts, and it is said what else does or does not."""

import argparse
import ast
import os

import pytest

from jetmae.cli.commands.resources import resources_of
from jetmae.cli.launch import make_parser
from jetmae.errors import JetmaeError
from jetmae.slurm import command, environment, job, job_terms
from tests.conftest import PROJECT

PROGRAMS = {"sbatch", "squeue", "sinfo", "scontrol", "sacct", "sacctmgr", "scancel", "srun", "salloc", "sprio", "sstat"}
ASKING = {"ask", "tell", "answer_of", "which"}
INHERITED = {
    "PATH": "/bin",
    "SLURM_CONF": "/etc/slurm.conf",
    "SLURM_JWT": "token",
    "SBATCH_SIGNAL": "USR1@5",
    "SQUEUE_STATES": "COMPLETED",
    "SINFO_FORMAT": "%n",
    "SACCT_FORMAT": "jobid",
    "SCONTROL_ALL": "1",
    "SCANCEL_INTERACTIVE": "1",
    "SALLOC_QOS": "urgent",
    "SLURM_CLUSTERS": "other",
    "SLURM_TIME_FORMAT": "relative",
    "SLURM_JOB_ID": "17",
    "SLURMD_NODENAME": "node9",
}


def typed(*words: str) -> argparse.Namespace:
    return make_parser().parse_args(["pretrain", "--cluster", "slurm", *words])


# ---- what reaches Slurm's programs


def test_options_go_and_what_names_the_cluster_stays():
    assert set(environment.plain_environment(INHERITED)) == {"PATH", "SLURM_CONF", "SLURM_JWT"}


def test_a_program_is_asked_in_the_plain_environment(tmp_path, monkeypatch):
    (tmp_path / "squeue").write_text("#!/bin/sh\nenv\n")
    (tmp_path / "squeue").chmod(0o755)
    for name, value in INHERITED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}:/usr/bin")
    seen = dict(line.split("=", 1) for line in (command.ask("squeue") or "").splitlines() if "=" in line)
    assert {name for name in seen if environment.is_input(name)} == {"SLURM_TIME_FORMAT"}
    assert seen["SLURM_TIME_FORMAT"] == "standard"
    assert seen["SLURM_CONF"] == "/etc/slurm.conf"


def test_sbatch_is_started_in_the_plain_environment_and_ours_comes_back(monkeypatch):
    monkeypatch.setenv("SBATCH_SIGNAL", "USR1@5")
    before = dict(os.environ)
    with environment.submitting():
        assert "SBATCH_SIGNAL" not in os.environ
    assert dict(os.environ) == before


def test_only_one_file_starts_slurms_programs():
    found = []
    for path in sorted((PROJECT / "src").rglob("*.py")):
        if path.name == "command.py" and path.parent.name == "slurm":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if any(isinstance(word, ast.Constant) and word.value in PROGRAMS for word in first_words(node)):
                found.append(f"{path.relative_to(PROJECT)}:{node.lineno}")
    assert found == []


def first_words(node: ast.AST) -> list[ast.expr]:
    """What could be the name of a program: the first of a list or of the arguments of a call."""
    if isinstance(node, ast.List | ast.Tuple):
        return node.elts[:1]
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        asks_or_tells = name in ASKING or name in ("ok", "failed", "warning")  # a verdict has a name too
        return [] if asks_or_tells else node.args[:1]
    return []


@pytest.mark.parametrize(
    "line", ["subprocess.run(['squeue', '-h'])", "os.execvp('srun', words)", "run(('scancel', job))"]
)
def test_the_search_itself_finds_such_a_start(line):
    words = [word for node in ast.walk(ast.parse(line)) for word in first_words(node)]
    assert any(isinstance(word, ast.Constant) and word.value in PROGRAMS for word in words)


# ---- variables that a person means


def test_sbatchs_variables_count_where_nothing_was_typed(capsys):
    variables = {"SBATCH_PARTITION": "gpu", "SBATCH_ACCOUNT": "mine", "SBATCH_TIMELIMIT": "2:00:00",
                 "SBATCH_RESERVATION": "course", "SBATCH_QOS": ""}  # fmt: skip
    asked = resources_of(typed("--account", "yours"), variables)
    assert (asked.partition, asked.account, asked.time_min, asked.qos) == ("gpu", "yours", 120, None)
    assert asked.extra == {"reservation": "course"}
    said = capsys.readouterr().err.splitlines()
    assert said[:3] == [
        "partition gpu from SBATCH_PARTITION",
        "reservation course from SBATCH_RESERVATION",
        "time 2:00:00 from SBATCH_TIMELIMIT",
    ]
    assert said[3].startswith("left out: SBATCH_ACCOUNT;")


def test_all_others_are_left_out_in_one_line(capsys):
    variables = {"SBATCH_SIGNAL": "USR1@5", "SBATCH_NO_REQUEUE": "1", "SBATCH_EXPORT": "NONE", "SQUEUE_STATES": "CD"}
    assert resources_of(typed(), variables) == resources_of(typed(), {})
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("left out: SBATCH_EXPORT, SBATCH_NO_REQUEUE, SBATCH_SIGNAL, SQUEUE_STATES;")


def test_inside_a_job_its_variables_are_named_together(capsys):
    resources_of(typed(), {"SLURM_JOB_ID": "17", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SBATCH_HINT": "x"})
    assert capsys.readouterr().err.startswith("left out: SBATCH_HINT, SLURM_* of job 17;")


def test_nothing_is_said_where_nothing_is_set_or_submitted(capsys):
    resources_of(typed(), {"PATH": "/bin", "SLURM_CONF": "/etc/slurm.conf"})
    resources_of(typed("--freeze"), {"SBATCH_SIGNAL": "USR1@5"})
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("variables", [{"SBATCH_TIMELIMIT": "soon"}, {"SBATCH_PARTITION": "x; touch y"}])
def test_a_variable_that_cannot_be_meant_is_named(variables):
    with pytest.raises(JetmaeError, match=next(iter(variables))):
        resources_of(typed(), variables)


# ---- which job a process belongs to


def test_a_process_started_by_hand_in_an_allocation_is_no_rank_of_it(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    monkeypatch.setenv("JETMAE_START", "0f3a5b")
    assert (job.job_id(), job.restart_count()) == (None, 0)
    monkeypatch.setenv("JETMAE_START", "17.2.0")
    assert (job.job_id(), job.restart_count()) == ("17", 2)
    monkeypatch.delenv("JETMAE_START")  # the batch shell
    assert job.job_id() == "17"
    monkeypatch.delenv("SLURM_JOB_ID")
    assert job.job_id() is None


# ---- on what terms a job was submitted


@pytest.fixture
def submitted(monkeypatch):
    """A job of which Slurm says this: the facts, the line that was typed, and the script."""
    says = {"Requeue": "1", "typed": "sbatch train.sbatch run", "script": "#!/bin/bash\n#SBATCH --signal=USR2@120\n"}
    monkeypatch.setattr(job_terms, "job_facts", lambda _: {"JobState": "RUNNING", "Requeue": says["Requeue"]})
    monkeypatch.setattr(job_terms, "ask", lambda program, *_: says["typed" if program == "sacct" else "script"])
    for name in ("SBATCH_SIGNAL", "JETMAE_SUCCESSORS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JETMAE_LEAD_TIME_S", "120")
    return says


def test_a_job_as_its_script_asks_breaks_no_promise(submitted):
    assert job_terms.broken_terms("7") == []


def test_a_job_that_does_not_come_back(submitted):
    submitted["Requeue"] = "0"
    assert "--no-requeue" in job_terms.broken_terms("7")[0]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("USR2@300", "may be taken for a preemption"),
        ("USR2", "may be taken for a preemption"),
        ("B:USR2@120", "its ranks get no warning"),
        ("USR1@120", "do not heed that signal"),
        ("10@120", "do not heed that signal"),
    ],
)
@pytest.mark.parametrize("by", ["typed", "variable", "script"])
def test_another_signal_is_noticed_however_it_was_asked_for(submitted, monkeypatch, by, asked, said):
    if by == "typed":
        submitted["typed"] = f"sbatch --signal {asked} train.sbatch run"
        monkeypatch.setenv("SBATCH_SIGNAL", "USR2@120")
    elif by == "variable":
        monkeypatch.setenv("SBATCH_SIGNAL", asked)
    else:
        submitted["script"] = f"#!/bin/bash\n#SBATCH --signal={asked}  # early\n"
    (warning,) = job_terms.broken_terms("7")
    assert f"--signal={asked}" in warning
    assert said in warning


def test_a_script_without_a_signal(submitted):
    submitted["script"] = "#!/bin/bash\n"
    assert "has no --signal" in job_terms.broken_terms("7")[0]


def test_a_lead_time_that_is_no_number_is_the_default(submitted, monkeypatch):
    monkeypatch.setenv("JETMAE_LEAD_TIME_S", "soon")
    assert job_terms.broken_terms("7") == []


def test_a_silent_slurm_is_no_broken_promise(submitted, monkeypatch):
    monkeypatch.setattr(job_terms, "job_facts", lambda _: {})
    assert job_terms.broken_terms("7") == []
