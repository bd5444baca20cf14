"""Runs as a program of another Python, which has BLEURT or COMET and not this package.

    python _learned_worker.py bleurt score CHECKPOINT < rows.json

Rows are a JSON list of `src`, `mt` and `ref`; the last line of the output is the list of scores.
"""

from __future__ import annotations

import json
import sys
from typing import Any

CHECK = "check"
SCORE = "score"
_BATCH = 16


def main(metric: str, what: str, checkpoint: str) -> None:
    """Import the package, and score the rows where that is asked for."""
    run = {"bleurt": _bleurt, "comet": _comet}[metric]
    rows = json.load(sys.stdin) if what == SCORE else []
    scores = run(checkpoint, rows)
    if what == SCORE:
        sys.stdout.write("\n" + json.dumps(scores) + "\n")


def _bleurt(checkpoint: str, rows: list[dict[str, str]]) -> list[float]:
    from bleurt_pytorch import BleurtForSequenceClassification, BleurtTokenizer

    if not rows:
        return []
    import torch

    model = BleurtForSequenceClassification.from_pretrained(checkpoint).eval()
    tokenizer = BleurtTokenizer.from_pretrained(checkpoint)
    scores: list[float] = []
    for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        inputs: Any = tokenizer(
            [row["ref"] for row in part],
            [row["mt"] for row in part],
            padding="longest",
            truncation=True,
            max_length=model.config.max_position_embeddings,
            return_tensors="pt",
        )
        with torch.no_grad():
            scores += model(**inputs).logits.flatten().tolist()
    return scores


def _comet(checkpoint: str, rows: list[dict[str, str]]) -> list[float]:
    from comet import load_from_checkpoint

    if not rows:
        return []
    import torch

    model = load_from_checkpoint(checkpoint)
    gpus = int(torch.cuda.is_available())
    predicted: Any = model.predict(rows, batch_size=_BATCH, gpus=gpus, progress_bar=False)
    return [float(score) for score in predicted.scores]


if __name__ == "__main__":
    del sys.path[0]  # this folder, whose modules are not for others to import
    main(*sys.argv[1:])
