"""The weights that leave a run say what they are, and are read only if they are what was written."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import save_file

from jetmae.data.normalisation import Normalisation
from jetmae.errors import JetmaeError
from jetmae.weights import WeightsInfo, read_weights, write_weights

NORMALISATION = Normalisation("none", scale=(1.0,), mean=(0.0,), std=(1.0,))
INFO = WeightsInfo("pretrain", {"dim": 4}, (1, 5, 5), ("hcal",), NORMALISATION, step=7, score=-0.5)


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
