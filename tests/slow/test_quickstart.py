"""The whole quickstart on the real weights, with fewer rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from trained import MARKS

from delia_data.models import embedded_gguf, load_model
from delia_data.quickstart import QuickstartSettings, run
from delia_data.training import load_adapter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.release,
    pytest.mark.skipif(embedded_gguf() is None, reason="the embedded weights are not installed"),
    *MARKS[1:],
]


def test_the_loss_falls_and_only_the_tokens_row_of_the_embedding_moves(tmp_path: Path) -> None:
    settings = QuickstartSettings(pairs=6, task_rows=6, held_out_rows=4, epochs=2, max_tokens=48)
    result = run(tmp_path / "out", settings)
    assert result.report.is_file()
    losses = json.loads((tmp_path / "out" / "adapter" / "losses.json").read_text())
    assert len(losses) == 3  # two epochs of 6 task rows, 3 contrast rows and 3 pairs
    assert losses[-1]["loss"] < losses[0]["loss"]
    base = load_model().get_input_embeddings().weight.detach()
    model, tokenizer = load_adapter(tmp_path / "out" / "adapter")
    trained = model.get_input_embeddings().weight.detach()
    assert torch.equal(trained[: len(base)], base)
    token_id = tokenizer.convert_tokens_to_ids("<sep>")
    assert not torch.allclose(trained[token_id].float(), base.float().mean(0), atol=1e-3)
