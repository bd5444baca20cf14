"""Why the token does not come near its keywords here, as it does in the paper's Table 1.

    python -m benchmarks.token_distance place                         # seconds; trains nothing
    python -m benchmarks.token_distance size                          # a minute; trains nothing
    python -m benchmarks.token_distance training --work .bench/token  # a quarter of an hour

`place`: distances of an untrained token to its keywords, where it stands inside a text and where
it stands first. `size`: the same inside a text, with the token's row scaled. `training`: DELIA at
ratio 1 with other ways to train the token's row, the paper's among them; a stopped run goes on.
Each writes its section of `benchmarks/RESULTS.md`.
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

from benchmarks._report import now, replace_section, table
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

__all__ = ["RESULTS", "main"]

RESULTS: Final = Path(__file__).parent / "RESULTS.md"
KEYWORDS: Final = ("json", "thought")
WAYS: Final[Mapping[str, Mapping[str, Any]]] = {
    "its row, at 0.15 (the recipe)": {},
    "its row, at 0.015": {"token_rate": 0.015},
    "its row, at 0.0015, as all else": {"token_rate": 0.0015},
    "LoRA on the embedding, at 2e-4 (the paper's code)": {
        "token_training": "lora",
        "token_rate": None,
    },
}
SIZES: Final = (1.0, 7.5, 100.0)
"""Factors of the token's row."""
_ALONE: Final = (WORD_SLOT,)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is asked for, print it, and write it into the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="Markdown file to write")
    commands = parser.add_subparsers(required=True)
    commands.add_parser("place").set_defaults(
        make=lambda _: ("Token: where it stands, untrained", place())
    )
    commands.add_parser("size").set_defaults(
        make=lambda _: ("Token: a large row, untrained", size())
    )
    trained = commands.add_parser("training")
    trained.add_argument("--work", type=Path, required=True, help="folder of the runs")
    trained.add_argument("--workers", type=int, default=2)
    trained.set_defaults(
        make=lambda a: ("Token: ways to train its row", training(a.work, a.workers))
    )
    chosen = parser.parse_args(arguments)
    title, body = chosen.make(chosen)
    print(f"{title}\n\n{body}")
    replace_section(chosen.results, title, body)


def place() -> str:
    """Norms of hidden states and distances, inside a text and at its very beginning."""
    model, tokenizer = load_model(dtype=torch.float32), load_tokenizer()
    add_token(model, tokenizer, init="normal")

    def states(word: str, contexts: Sequence[str]) -> torch.Tensor:
        read = [locate(tokenizer, context, word).up_to for context in contexts]
        return states_at_last(model, read)  # (contexts, blocks, width)

    lines = []
    for name, own, other in (
        ("both inside a text", DEFAULT_CONTEXTS, DEFAULT_CONTEXTS),
        ("token first, keyword inside a text", _ALONE, DEFAULT_CONTEXTS),
        ("both first", _ALONE, _ALONE),
    ):
        at_token = states(DEFAULT_TOKEN, own)
        apart = [(at_token - states(word, other)).norm(dim=-1).mean(0) for word in KEYWORDS]
        norm = at_token.norm(dim=-1).mean(0)
        blocks = (0, middle_block(len(norm)), len(norm) - 1)
        lines.append(
            [
                name,
                *(f"{norm[block]:,.0f}" for block in blocks),
                *(", ".join(f"{one[block]:,.0f}" for one in apart) for block in blocks),
            ]
        )
    places = ("first", "middle", "last")
    head = [
        "",
        *(f"norm of the token's state, {each} block" for each in places),
        *(f"L2 to {', '.join(KEYWORDS)}, {each} block" for each in places),
    ]
    return (
        f"Measured {now()} UTC. The embedded model, the token's row drawn at random, nothing "
        f"trained.\n\n{table(head, lines)}"
    )


def size() -> str:
    """Distances from the token to its keywords with its row scaled, and between the keywords."""
    model, tokenizer = load_model(dtype=torch.float32), load_tokenizer()
    token_id = add_token(model, tokenizer, init="normal")
    rows = model.get_input_embeddings().weight.data
    row = rows[token_id].clone()
    blocks: tuple[int, ...] = ()
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
        apart = [(token - one).norm(dim=-1).mean(0) for one in (first, second)]
        between = (first - second).norm(dim=-1).mean(0)
        lines.append(
            [
                f"{factor:g}",
                f"{rows[token_id].norm():.2f}",
                *(", ".join(f"{one[block]:,.1f}" for one in apart) for block in blocks),
                *(f"{between[block]:,.1f}" for block in blocks),
            ]
        )
    places = ("first", "middle", "last")
    head = [
        "row times",
        "norm of the row",
        *(f"L2 to {', '.join(KEYWORDS)}, {each} block" for each in places),
        *(f"{' to '.join(KEYWORDS)}, {each} block" for each in places),
    ]
    return (
        f"Measured {now()} UTC. The embedded model, nothing trained; the token's row drawn like "
        f"other rows and scaled, token and keywords inside the same texts.\n\n{table(head, lines)}"
    )


def training(work: Path, workers: int) -> str:
    """DELIA at ratio 1, the token's row trained in other ways."""
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
        "what is trained",
        "follow",
        "leak without the token",
        "loss on held-out rows",
        *(f"{word}, middle block: L2 / ordinary words" for word in KEYWORDS),
        *(f"{word}, middle block: cosine distance" for word in KEYWORDS),
    ]
    return (
        f"Measured {now()} UTC. The bundled task and cache, 100 task rows, ratio 1, two epochs, "
        f"seed 0, beside LoRA of rank 16 on all linear layers.\n\n{table(head, lines)}"
    )


def _grid(way: Mapping[str, Any]) -> Grid:
    grid = read_grid("tiny")
    told = grid.experiments["formatted-text"]
    own = replace(
        told,
        blocks=(Block(("delia",), rows=(100,), ratios=(1.0,)),),
        training={**told.training, **way},
        probes=("held-out", "plain"),
    )
    return replace(grid, name="token", experiments={"formatted-text": own}, about="")


def _figures(run: Reproduction) -> list[str]:
    results = read_results(run.grid, run.out)
    found = results.of("formatted-text", "delia")
    shares = [results.follow(found), results.leak(found)]
    figures = [f"{share.value:.0%}" if share else "–" for share in shares]
    loss = results.final(found, "loss")
    figures.append(f"{loss.value:.3f}" if loss else "–")
    for measure in ("relative", "cosine"):
        for word in KEYWORDS:
            measured = results.distance(found, word, measure=measure)
            figures.append(f"{measured.value:.3f}" if measured else "–")
    return figures


if __name__ == "__main__":
    main()
