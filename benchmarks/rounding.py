"""Measure what rounding its weights changes in a model, to compare with what training changes.

    python -m benchmarks.rounding --work .bench/rounding   # half an hour; a stopped run resumes

The embedded model with rounded weights is evaluated like a trained one: the divergence from the
model itself on held-out pairs (KL), and the share of unrelated answers with the same meaning as
before (kept).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch

from benchmarks._report import RESULTS, now, replace_section, table
from delia_data.bundled_cache import BUNDLED
from delia_data.diversify import diversify
from delia_data.evaluation import EvalTask, Evaluation, evaluate, open_system
from delia_data.models import DEFAULT_MODEL, load_model, load_tokenizer
from delia_data.tasks import bundled_task, bundled_wordings
from delia_data.tokens import add_token

__all__ = ["main", "round_weights"]

_BITS: Final = (8, 7, 6, 5, 4)
_TOKENS: Final = 128


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate the rounded models and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the run")
    parser.add_argument("--results", type=Path, default=RESULTS, help="Markdown file to write")
    options = parser.parse_args(arguments)
    lines = []
    for bits in _BITS:
        scores = _evaluate(options.work / f"{bits}-bits", bits)
        kl, kept = scores.number("kl"), scores.number("similar")
        assert kl is not None and kept is not None
        lines.append(
            [
                f"{bits} bits",
                f"{kl.value:.4f}",
                f"{kept.value:.0%} ({kept.low:.0%}–{kept.high:.0%})",
            ]
        )
        print(*lines[-1], flush=True)
    body = table(["weights", "KL, nats a token", "answers kept (95% interval)"], lines)
    title = "Rounded weights as a yardstick of KL and kept answers"
    text = f"Measured {now()} UTC. Embedded model, answers of at most {_TOKENS} tokens.\n\n{body}"
    replace_section(options.results, title, text)


def round_weights(model: torch.nn.Module, bits: int) -> None:
    """Round the matrices of a model in place to integers with one scale for each row."""
    for weight in model.parameters():
        if weight.dim() == 2:
            scale = weight.data.abs().amax(1, keepdim=True).clamp(min=1e-12) / (2 ** (bits - 1) - 1)
            weight.data = (weight.data / scale).round() * scale


def _evaluate(folder: Path, bits: int) -> Evaluation:
    model_folder = folder / "model"
    if not (model_folder / "tokenizer_config.json").exists():
        model, tokenizer = load_model(dtype=torch.float32), load_tokenizer()
        add_token(model, tokenizer, init="mean")
        round_weights(model, bits)
        model.save_pretrained(model_folder)
        tokenizer.save_pretrained(model_folder)
    task = bundled_task()
    system = open_system(
        str(model_folder), "transformers", {}, token=task.token, untrained=DEFAULT_MODEL
    )
    eval_task = EvalTask.of(task, diversify(task, bundled_wordings(), seed=0))
    return evaluate(
        system,
        eval_task,
        folder / "scores",
        probes=("unrelated",),
        max_tokens=_TOKENS,
        pairs=BUNDLED,
    )


if __name__ == "__main__":
    main()
