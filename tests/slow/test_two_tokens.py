"""Two tokens in one training of the real weights: each answers in its own format."""

from __future__ import annotations

from pathlib import Path

import pytest
from trained import MARKS
from two_tasks import SECOND, eval_tasks, mixture, two_tasks

from delia_data.bundled_cache import BUNDLED, cache_path
from delia_data.evaluation import evaluate
from delia_data.evaluation.generation import open_adapter_system
from delia_data.models import embedded_gguf
from delia_data.training import read_recipe, train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(embedded_gguf() is None, reason="the embedded weights are not installed"),
    *MARKS[1:],
]


def test_each_token_brings_its_own_format(tmp_path: Path) -> None:
    """Both tasks ask the same kind of question, so that only the token can decide."""
    tasks = two_tasks(40, 20)
    mixed = mixture(tasks, cache_path(BUNDLED), ratio=1, epochs=2)
    more = {"token": ["<sep>", SECOND], "pairs_loss": "kl", "epochs": 1}
    folder = tmp_path / "adapter"
    train(read_recipe("smollm2-135m-cpu", more), mixed, folder)
    first, second = eval_tasks(tasks)
    scores = evaluate(
        open_adapter_system(folder, token="<sep>"),
        first,
        tmp_path / "evaluation",
        probes=("held-out", "plain"),
        pairs=None,
        max_tokens=64,
        others=[second],
    )
    for token, counts in scores.confusion.items():
        others = sum(count for name, count in counts.items() if name not in (token, "none"))
        assert counts[token] >= 6 and others <= 1, scores.confusion
