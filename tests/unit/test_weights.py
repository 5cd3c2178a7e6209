"""The weights that leave a run say what they are, and are read only if they are what was written."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import save_file

from jetmae import weights as module
from jetmae.data.manifest import Manifest
from jetmae.data.normalisation import Normalisation
from jetmae.errors import JetmaeError
from jetmae.weights import WeightsInfo, check_fits, read_weights, write_weights

NORMALISATION = Normalisation("none", scale=(1.0,), mean=(0.0,), std=(1.0,))
INFO = WeightsInfo("pretrain", {"dim": 4}, (1, 5, 5), ("hcal",), ("GeV",), NORMALISATION, step=7, score=-0.5)


@pytest.fixture
def written(tmp_path):
    write_weights(tmp_path / "weights" / "best.safetensors", {"a": torch.arange(6.0), "b": torch.ones(2, 2)}, INFO)
    return tmp_path / "weights" / "best.safetensors"


def test_weights_come_back_with_what_belongs_to_them(written):
    weights, info = read_weights(written)
    assert torch.equal(weights["a"], torch.arange(6.0))
    assert info == INFO


def test_a_flipped_bit_is_found(written):
    content = bytearray(written.read_bytes())
    content[-3] ^= 4
    written.write_bytes(content)
    with pytest.raises(JetmaeError, match=r"best\.safetensors is damaged"):
        read_weights(written)


def test_a_changed_word_about_them_is_found(written):
    written.write_bytes(written.read_bytes().replace(b"hcal", b"ecal"))
    with pytest.raises(JetmaeError, match=r"best\.safetensors is damaged"):
        read_weights(written)


def test_equal_weights_give_equal_files_that_a_group_may_read(tmp_path):
    """safetensors orders several metadata anew in each thread, and keeps a file of its own from all but the owner."""
    paths = [tmp_path / f"{n}.safetensors" for n in range(8)]
    for path in paths:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(write_weights, path, {"a": torch.arange(6.0)}, INFO).result()
    assert len({path.read_bytes() for path in paths}) == 1
    (tmp_path / "plain").touch()
    assert paths[0].stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_foreign_file_is_refused(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(JetmaeError, match="is not a weight file of jetmae"):
        read_weights(tmp_path / "foreign.safetensors")
    with pytest.raises(JetmaeError, match="is not a weight file of jetmae"):
        read_weights(tmp_path / "missing.safetensors")


def test_a_file_of_before_the_units_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "asdict", lambda info: {k: v for k, v in asdict(info).items() if k != "units"})
    write_weights(tmp_path / "old.safetensors", {"a": torch.ones(1)}, INFO)
    with pytest.raises(JetmaeError, match=r"old\.safetensors does not tell its units: .* train that run anew"):
        read_weights(tmp_path / "old.safetensors")


IMPACTS = replace(INFO, image_shape=(2, 5, 5), channels=("d0", "dz"), units=("cm", "cm"))
SUCH_DATA = Manifest(IMPACTS.image_shape, IMPACTS.channels, IMPACTS.units, None, 5, {})


def test_weights_fit_the_network_and_the_images_they_were_made_with(tmp_path):
    check_fits(IMPACTS, {"dim": 4}, SUCH_DATA, path=tmp_path)
    check_fits(IMPACTS, {"dim": 4, "drop_path": 0.1}, SUCH_DATA, path=tmp_path)


@pytest.mark.parametrize(
    ("model", "other", "message"),
    [
        ({"dim": 8}, {}, r"another architecture: model\.dim is 4, configured 8"),
        ({"dim": 4}, {"image_shape": (2, 9, 5)}, r"trained on image_shape \(2, 5, 5\), these data have \(2, 9, 5\)"),
        ({"dim": 4}, {"channels": ("dz", "d0")}, r"channels \(d0, dz\), these data have \(dz, d0\): .* --channels"),
        ({"dim": 4}, {"units": ("mm", "cm")}, r"units \(cm, cm\), these data have \(mm, cm\): pretrain on .* --units"),
    ],
)
def test_weights_of_another_network_or_other_images_are_refused(tmp_path, model, other, message):
    with pytest.raises(JetmaeError, match=message):
        check_fits(IMPACTS, model, replace(SUCH_DATA, **other), path=tmp_path)
