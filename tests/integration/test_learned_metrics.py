"""BLEURT and COMET run in another Python, where these tests put stand-ins for the packages."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from delia_data.errors import EngineError, InputError, MissingExtraError
from delia_data.evaluation import Resampling
from delia_data.evaluation.translation import load_metrics, score_corpus

pytestmark = pytest.mark.integration

HOW = Resampling(resamples=200)
SOURCES = ["The dog sleeps.", "It is raining today.", "Good morning!", "Where is the old harbour?"]
REFERENCES = ["Hundurinn sefur.", "Það rignir í dag.", "Góðan daginn!", "Hvar er gamla höfnin?"]
ANSWERS = ["Hundurinn svaf.", "Það rignir í dag.", "Góðan dag", "Hvar er höfnin?"]

BLEURT = """
import torch
class BleurtForSequenceClassification(torch.nn.Module):
    class config:
        max_position_embeddings = 8
    @classmethod
    def from_pretrained(cls, folder):
        assert open(folder + "/config.json").read() == "{}"
        return cls()
    def forward(self, lengths):
        class Output:
            logits = lengths[:, None] / 100
        return Output()
class BleurtTokenizer:
    @classmethod
    def from_pretrained(cls, folder):
        return cls()
    def __call__(self, references, candidates, padding, truncation, max_length, return_tensors):
        assert (padding, truncation, max_length, return_tensors) == ("longest", True, 8, "pt")
        pairs = zip(references, candidates)
        return {"lengths": torch.tensor([10.0 * len(r) + len(c) for r, c in pairs])}
"""
COMET = """
print("a library's chatter")
def load_from_checkpoint(path):
    assert path.endswith("model.ckpt")
    class Model:
        def predict(self, samples, batch_size, gpus, progress_bar):
            assert gpus == 0 and progress_bar is False
            class Prediction(dict):
                __getattr__ = dict.__getitem__
            return Prediction(scores=[len(s["src"] + s["mt"] + s["ref"]) / 100 for s in samples])
    return Model()
"""


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write stand-ins of the two packages, and checkpoints for them."""
    (tmp_path / "bleurt_pytorch.py").write_text(BLEURT)
    (tmp_path / "comet.py").write_text(COMET)
    (tmp_path / "BLEURT-20").mkdir()
    (tmp_path / "BLEURT-20" / "config.json").write_text("{}")
    (tmp_path / "model.ckpt").write_text("weights")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_learned_metrics(packages: Path) -> None:
    bleurt, comet = load_metrics(
        [f"bleurt={packages / 'BLEURT-20'}", f"comet={packages / 'model.ckpt'}"]
    )
    assert (bleurt.name, comet.name) == ("BLEURT", "COMET")
    many = (SOURCES * 5, ANSWERS * 5, REFERENCES * 5)  # more than a batch
    expected = [(10 * len(r) + len(a)) / 100 for _, a, r in zip(*many, strict=True)]
    assert bleurt.counts(*many)[:, 0] == pytest.approx(expected)
    measured = score_corpus(bleurt, [many], HOW)
    assert measured.value == pytest.approx(np.mean(expected))
    lengths = [len("".join(texts)) / 100 for texts in zip(*many, strict=True)]
    assert score_corpus(comet, [many], HOW).value == pytest.approx(np.mean(lengths))


def test_missing_packages_and_checkpoints(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = packages / "BLEURT-20"
    with pytest.raises(InputError, match=r"no checkpoint was given: give comet=PATH"):
        load_metrics(["comet"])
    with pytest.raises(InputError, match=r"nowhere does not exist: give bleurt=PATH"):
        load_metrics([f"bleurt={packages / 'nowhere'}"])
    (packages / "bleurt_pytorch.py").unlink()
    with pytest.raises(MissingExtraError, match=r"pip install bleurt-pytorch .* DELIA_BLEURT_PYT"):
        load_metrics([f"bleurt={folder}"])
    monkeypatch.setenv("DELIA_BLEURT_PYTHON", "/no/such/python")
    with pytest.raises(InputError, match="DELIA_BLEURT_PYTHON is '/no/such/python'"):
        load_metrics([f"bleurt={folder}"])


def test_a_checkpoint_that_does_not_load(packages: Path) -> None:
    (metric,) = load_metrics([f"bleurt={packages / 'BLEURT-20'}"])
    (packages / "BLEURT-20" / "config.json").write_text("broken")
    with pytest.raises(EngineError, match="BLEURT failed with checkpoint BLEURT-20: AssertionErr"):
        metric.counts(SOURCES, ANSWERS, REFERENCES)


def test_another_python_can_be_named(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELIA_COMET_PYTHON", sys.executable)
    (metric,) = load_metrics([f"comet={packages / 'model.ckpt'}"])
    assert metric.counts(SOURCES[:1], ANSWERS[:1], REFERENCES[:1]).shape == (1, 1)
