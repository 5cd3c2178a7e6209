"""What a user gives ends in a shell script: nothing of it may run, and what is refused is refused in one line."""

import subprocess
from pathlib import Path

import pytest

from jetmae.errors import JetmaeError
from jetmae.launch import submission
from jetmae.launch.resources import SITES, Resources, after, resources_for
from jetmae.slurm.time_limit import minutes as minutes_of

PAYLOADS = (
    *("$(touch MARK)", "`touch MARK`", "; touch MARK", "x; touch MARK", "x && touch MARK", "x || touch MARK"),
    *("x | touch MARK", "x & touch MARK", "\ntouch MARK\n", "x\ntouch MARK", "x\r\ntouch MARK", "'; touch MARK; '"),
    *('"; touch MARK; "', "x' ; touch MARK #", "${IFS}touch${IFS}MARK", "x\x00touch MARK", "--wrap=touch MARK", "-x"),
    *("#\ntouch MARK", "x\n#SBATCH --wrap=touch MARK", "<(touch MARK)", ">MARK", "x >MARK", "\\\ntouch MARK"),
    *("x\u2028touch MARK", "!touch MARK", "~", "../../MARK", "$PATH", "x\ttouch MARK", "%s%n", "*", "x y"),
)
FIELDS = ("partition", "account", "qos", "constraint", "mem", "dependency", "modules")


def asked_of(site: str, given: dict) -> Resources:
    """What the command line would make of it; sbatch options are under `extra`."""
    return resources_for(site, {**given, "extra": None}, given.get("extra", {}))


def script_for(tmp_path: Path, name: str = "run", **given: object) -> str:
    return submission.script([tmp_path / "run"], asked_of("slurm", given), name=name)


def runs_nothing(script: str, folder: Path) -> bool:
    """Execute the script with every command it means replaced by nothing; True if no payload left its mark."""
    stubs = folder / "stubs"
    stubs.mkdir(exist_ok=True)
    for command in ("srun", "module", "scontrol"):
        (stubs / command).write_text("#!/bin/sh\n")
        (stubs / command).chmod(0o755)
    script = script.replace(submission.sys.executable, str(stubs / "srun"))
    subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={"PATH": f"{stubs}:/usr/bin:/bin"},
        capture_output=True,
        check=False,
    )
    return not (folder / "MARK").exists()


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("field", [*FIELDS, "extra value", "extra key", "job name", "run folder"])
def test_no_payload_runs(tmp_path, field, payload):
    given: dict[str, object] = {}
    if field == "extra value":
        given["extra"] = {"comment": payload}
    elif field == "extra key":
        given["extra"] = {payload: "x"}
    elif field in FIELDS:
        given[field] = (payload,) if field == "modules" else payload
    folder = tmp_path / "home"
    folder.mkdir()
    try:
        resources = asked_of("slurm", given)
        root = Path("/nowhere") / payload if field == "run folder" else Path("/nowhere/run")
        script = submission.script([root], resources, name=payload if field == "job name" else "run")
    except (JetmaeError, ValueError):  # refused; how is tested below
        return
    assert runs_nothing(script, folder)
    assert "touch" not in script or field == "job name"


def test_the_check_itself_notices_a_payload_that_runs(tmp_path):
    assert not runs_nothing("#SBATCH --comment=x\ntouch MARK\n", tmp_path)


def test_ordinary_values_pass_and_stand_in_the_script(tmp_path):
    script = script_for(
        tmp_path,
        nodes=4,
        gpus_per_node=4,
        partition="gpu,gpu-long",
        constraint="(a100&hbm80g)|h100",
        mem="240G",
        extra={"gres": "gpu:a100:4", "exclusive": True, "mail-user": "someone@example.org"},
    )
    for line in (
        "#SBATCH --nodes=4",
        "#SBATCH --ntasks-per-node=4",
        "#SBATCH --gpus-per-node=4",
        "#SBATCH --partition=gpu,gpu-long",
        "#SBATCH --constraint='(a100&hbm80g)|h100'",
        "#SBATCH --exclusive",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "#SBATCH --signal=USR2@120",
        "#SBATCH --mail-user=someone@example.org",
    ):
        assert line in script
    assert "--kill-on-bad-exit=1" in script


def test_an_array_is_one_job_whose_elements_look_after_their_own_run(tmp_path):
    roots = [tmp_path / f"seed-{n}" for n in range(3)]
    script = submission.script(roots, asked_of("slurm", {}), name="seeds")
    assert "#SBATCH --array=0-2%3" in script
    assert f"supervisor {roots[0]} {roots[1]} {roots[2]} " in script


def test_the_report_of_a_chain_is_made_with_the_code_of_a_run(tmp_path, monkeypatch):
    scripts = []

    def sbatch(executor, command):
        scripts.append(executor._make_submission_file_text(executor._submitit_command_str, "0"))
        return type("Job", (), {"job_id": "7"})

    monkeypatch.setattr("submitit.SlurmExecutor.submit", sbatch)
    submission.submit_command(["true"], tmp_path / "chain", Resources(), code_of=tmp_path / "chain" / "pretrain")
    assert f"runs=({tmp_path}/chain/pretrain); code=${{runs[0]}}/code" in scripts[0]
    assert "supervisor" not in scripts[0]


def test_a_dependent_job_does_not_outlive_a_failed_parent():
    resources = after(asked_of("slurm", {"dependency": "singleton"}), ["7", "8_1"])
    script = submission.script([Path("/runs/x")], resources, name="x")
    assert "#SBATCH --dependency=singleton,afterok:7:8_1" in script
    assert "#SBATCH --kill-on-invalid-dep=yes" in script


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"extra": {"wrapp": "x"}}, "'wrapp' is not passed through"),
        ({"extra": {"exclud": "n1"}}, "did you mean 'exclude'"),
        ({"mem": "lots"}, "mem = 'lots'"),
        ({"nodes": 0}, "nodes = 0"),
        ({"lead_time_s": 99999}, "lead-time-s = 99999"),
    ],
)
def test_a_refusal_names_the_field(given, expected):
    with pytest.raises(JetmaeError, match=expected):
        asked_of("slurm", given)


def test_every_site_preset_is_valid_and_names_its_source():
    sites = sorted(SITES.glob("*.yaml"))
    assert len(sites) >= 4
    for path in sites:
        submission.script([Path("/runs/x")], asked_of(path.stem, {}), name="x")
        if path.stem != "slurm":
            assert "# Tested: not at the site." in path.read_text()


@pytest.mark.parametrize(
    ("text", "minutes"), [("90", 90), ("1:30:00", 90), ("90:30", 91), ("2-12", 3600), ("1-0:30", 1470), ("0:00:10", 1)]
)
def test_time_limits(text, minutes):
    assert minutes_of(text) == minutes


@pytest.mark.parametrize("text", ["", "soon", "1h", "1:2:3:4", "-5", "1-"])
def test_a_time_limit_that_is_none(text):
    with pytest.raises(ValueError, match="expected minutes"):
        minutes_of(text)
