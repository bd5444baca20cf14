"""Measure the distance of the token to its keywords, to explain the paper's Table 1.

    python -m benchmarks.token_distance place                         # seconds; trains nothing
    python -m benchmarks.token_distance size                          # a minute; trains nothing
    python -m benchmarks.token_distance training --work .bench/token  # a quarter of an hour

`place` compares an untrained token inside a text with one at the start of a text. `size` scales the
row of an untrained token. `training` runs DELIA at ratio 1 with several ways to train the token's
row, including that of the paper's code; a stopped run resumes. Each command writes a section of
`benchmarks/RESULTS.md`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks._report import RESULTS, now, replace_section, table
from delia_data.bundled_cache import BUNDLED, cache_path
from delia_data.evaluation.representation import (
    DEFAULT_CONTEXTS,
    WORD_SLOT,
    locate,
    middle_block,
    states_at_last,
)
from delia_data.experiments import Grid, Reproduction, read_grid, read_results, reproduce
from delia_data.experiments.grid import Block
from delia_data.models import load_model, load_tokenizer
from delia_data.tokens import DEFAULT_TOKEN, add_token

__all__ = ["main"]

KEYWORDS: Final = ("json", "thought")
WAYS: Final[Mapping[str, Mapping[str, Any]]] = {
    "token row, 0.15 (recipe)": {},
    "token row, 0.015": {"token_rate": 0.015},
    "token row, 0.0015 (same steps as LoRA)": {"token_rate": 0.0015},
    "LoRA on the embedding, 2e-4 (paper's code)": {
        "token_training": "lora",
        "token_rate": None,
    },
}
SIZES: Final = (1.0, 7.5, 100.0)
"""Factors of the token's row."""
_START: Final = (WORD_SLOT,)
_BLOCKS: Final = ("first", "middle", "last")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the selected measurement, print it, and write it into the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="Markdown file to write")
    commands = parser.add_subparsers(required=True)
    commands.add_parser("place").set_defaults(
        make=lambda _: ("Token: position in the text, untrained", place())
    )
    commands.add_parser("size").set_defaults(
        make=lambda _: ("Token: scaled row, untrained", size())
    )
    train_parser = commands.add_parser("training")
    train_parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    train_parser.add_argument("--workers", type=int, default=2)
    train_parser.set_defaults(
        make=lambda a: ("Token: ways to train its row", training(a.work, a.workers))
    )
    given = parser.parse_args(arguments)
    title, body = given.make(given)
    print(f"{title}\n\n{body}")
    replace_section(given.results, title, body)


def place() -> str:
    """Return a table of norms and distances of hidden states, inside a text and at its start."""
    model, tokenizer = load_model(dtype=torch.float32), load_tokenizer()
    add_token(model, tokenizer, init="normal")

    def states(word: str, contexts: Sequence[str]) -> torch.Tensor:
        prefixes = [locate(tokenizer, context, word).up_to for context in contexts]
        return states_at_last(model, prefixes)  # (contexts, blocks, width)

    lines = []
    for name, own, other in (
        ("both inside a text", DEFAULT_CONTEXTS, DEFAULT_CONTEXTS),
        ("token at the start, keyword inside a text", _START, DEFAULT_CONTEXTS),
        ("both at the start", _START, _START),
    ):
        at_token = states(DEFAULT_TOKEN, own)
        distances = [(at_token - states(word, other)).norm(dim=-1).mean(0) for word in KEYWORDS]
        norm = at_token.norm(dim=-1).mean(0)
        blocks = (0, middle_block(len(norm)), len(norm) - 1)
        lines.append(
            [
                name,
                *(f"{norm[block]:,.0f}" for block in blocks),
                *(", ".join(f"{each[block]:,.0f}" for each in distances) for block in blocks),
            ]
        )
    head = [
        "",
        *(f"norm of the token's state, {each} block" for each in _BLOCKS),
        *(f"L2 to {', '.join(KEYWORDS)}, {each} block" for each in _BLOCKS),
    ]
    return (
        f"Measured {now()} UTC. Embedded model without training; random row of the token."
        f"\n\n{table(head, lines)}"
    )


def size() -> str:
    """Return a table of distances of the token to its keywords, for a scaled row of the token."""
    model, tokenizer = load_model(dtype=torch.float32), load_tokenizer()
    token_id = add_token(model, tokenizer, init="normal")
    rows = model.get_input_embeddings().weight.data
    row = rows[token_id].clone()
    lines = []
    for factor in SIZES:
        rows[token_id] = row * factor
        token, first, second = (
            states_at_last(
                model, [locate(tokenizer, text, word).up_to for text in DEFAULT_CONTEXTS]
            )
            for word in (DEFAULT_TOKEN, *KEYWORDS)
        )
        blocks = (0, middle_block(token.shape[1]), token.shape[1] - 1)
        distances = [(token - each).norm(dim=-1).mean(0) for each in (first, second)]
        between = (first - second).norm(dim=-1).mean(0)
        lines.append(
            [
                f"{factor:g}",
                f"{rows[token_id].norm():.2f}",
                *(", ".join(f"{each[block]:,.1f}" for each in distances) for block in blocks),
                *(f"{between[block]:,.1f}" for block in blocks),
            ]
        )
    head = [
        "factor of the row",
        "norm of the row",
        *(f"L2 to {', '.join(KEYWORDS)}, {each} block" for each in _BLOCKS),
        *(f"{' to '.join(KEYWORDS)}, {each} block" for each in _BLOCKS),
    ]
    return (
        f"Measured {now()} UTC. Embedded model without training; row of the token drawn like "
        f"other rows and scaled; token and keywords in the same texts.\n\n{table(head, lines)}"
    )


def training(work: Path, workers: int) -> str:
    """Run DELIA at ratio 1 with each way to train the token's row, and return a table."""
    runs = [
        Reproduction(_grid(way), work / f"{i}", cache=cache_path(BUNDLED))
        for i, way in enumerate(WAYS.values())
    ]
    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    with ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=torch.set_num_threads, initargs=(threads,)
    ) as pool:
        list(pool.map(reproduce, runs))
    lines = [[name, *_figures(run)] for name, run in zip(WAYS, runs, strict=True)]
    head = [
        "trained",
        "follow",
        "leak without the token",
        "loss on held-out rows",
        *(f"{word}, middle block: L2 / ordinary words" for word in KEYWORDS),
        *(f"{word}, middle block: cosine distance" for word in KEYWORDS),
    ]
    return (
        f"Measured {now()} UTC. Bundled task and cache, 100 task rows, ratio 1, two epochs, seed "
        f"0, with LoRA of rank 16 on all linear layers.\n\n{table(head, lines)}"
    )


def _grid(way: Mapping[str, Any]) -> Grid:
    grid = read_grid("tiny")
    default = grid.experiments["formatted-text"]
    experiment = replace(
        default,
        blocks=(Block(("delia",), rows=(100,), ratios=(1.0,)),),
        training={**default.training, **way},
        probes=("held-out", "plain"),
    )
    return replace(grid, name="token", experiments={"formatted-text": experiment}, about="")


def _figures(run: Reproduction) -> list[str]:
    results = read_results(run.grid, run.out)
    cells = results.of("formatted-text", "delia")
    shares = [results.follow(cells), results.leak(cells)]
    figures = [f"{share.value:.0%}" if share else "–" for share in shares]
    loss = results.final(cells, "loss")
    figures.append(f"{loss.value:.3f}" if loss else "–")
    for measure in ("relative", "cosine"):
        for word in KEYWORDS:
            distance = results.distance(cells, word, measure=measure)
            figures.append(f"{distance.value:.3f}" if distance else "–")
    return figures


if __name__ == "__main__":
    main()
