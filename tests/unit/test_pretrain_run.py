"""A run that starts from another one is compared with it before a job waits in the queue."""

import shutil
from dataclasses import replace

import pytest

from jetmae.config import as_yaml, load_experiment
from jetmae.data.manifest import Manifest, read_manifest, write_manifest
from jetmae.errors import JetmaeError
from jetmae.plan import check_pretrain_run
from tests.conftest import type_command

DATA = Manifest((3, 25, 25), ("ECAL", "d0", "dz"), ("GeV", "cm", "cm"), ("qcd", "top"), 5, {})


@pytest.fixture
def finetune(tmp_path):
    """An experiment that starts from a finished pretraining on DATA."""
    for folder in ("data", "pretrain"):
        (tmp_path / folder).mkdir()
    write_manifest(tmp_path / "data", DATA)
    pretrain = load_experiment("pretrain", "small", [f"data.path={tmp_path / 'data'}"])
    (tmp_path / "pretrain" / "config.yaml").write_text(as_yaml(pretrain))
    (tmp_path / "pretrain" / "COMPLETED").touch()
    return load_experiment("finetune", "small", [f"init_from={tmp_path / 'pretrain'}"])


def test_a_pretraining_on_such_data_is_accepted(finetune):
    check_pretrain_run(finetune, DATA)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"image_shape": (3, 30, 25)}, r"image_shape \(3, 25, 25\), these data have \(3, 30, 25\)"),
        (
            {"channels": ("ECAL", "dz", "d0")},
            r"channels \(ECAL, d0, dz\), these data have \(ECAL, dz, d0\): pretrain on",
        ),
        (
            {"units": ("0..255", "cm", "cm")},
            r"units \(GeV, cm, cm\), these data have \(0\.\.255, cm, cm\): pretrain on",
        ),
    ],
)
def test_a_pretraining_on_other_images_is_refused(finetune, other, message):
    with pytest.raises(JetmaeError, match=message):
        check_pretrain_run(finetune, replace(DATA, **other))


def test_data_of_the_pretraining_that_are_gone_are_left_to_the_weights(finetune, tmp_path):
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    check_pretrain_run(finetune, replace(DATA, channels=("ECAL", "dz", "d0")))


def test_a_chain_compares_its_stages_before_the_first_begins(sample, tmp_path):
    shutil.copytree(sample, tmp_path / "other")
    manifest = read_manifest(sample)
    write_manifest(tmp_path / "other", replace(manifest, channels=manifest.channels[::-1]))
    settings = (f"data.path={sample}", f"pretrain.data.path={tmp_path / 'other'}", "--cluster", "local")
    finished = type_command("launch.py", "chain", *settings, "--runs-dir", tmp_path / "runs", "--dry-run")
    assert finished.returncode == JetmaeError.exit_code
    assert "pretrain was trained on channels (" in finished.stderr
    assert len(finished.stderr.splitlines()) == 1
