"""`delia sample`: a cache of pairs in the model's own words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from delia_data.cli._console import console, step, with_parts
from delia_data.engines import ENGINES, Sampling, load_engine
from delia_data.errors import InputError
from delia_data.models import DEFAULT_MODEL
from delia_data.records import read_rows
from delia_data.sampling import Query, bundled_queries, sample

__all__ = ["command", "read_queries"]


def command(
    out: Annotated[Path, typer.Argument(help="Folder of the cache; a rerun goes on there.")],
    target: Annotated[int, typer.Option(help="Pairs to keep.")] = 96,
    queries: Annotated[
        Path | None, typer.Option(help="JSON Lines or JSON file of queries; bundled ones if none.")
    ] = None,
    model: Annotated[str, typer.Option(help="Embedded model's name, folder or Hub id.")] = (
        DEFAULT_MODEL
    ),
    engine: Annotated[str, typer.Option(help=f"One of {', '.join(ENGINES)}.")] = "transformers",
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.7,
    top_p: Annotated[float, typer.Option(help="Probability mass that is drawn from.")] = 0.95,
    max_tokens: Annotated[int, typer.Option(help="Tokens of an answer at most.")] = 512,
    batch_size: Annotated[int, typer.Option(help="Prompts generated together.")] = 32,
    seed: Annotated[int, typer.Option(help="Seed of the run.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
) -> None:
    """Sample pairs from the model itself into a cache."""
    asked = bundled_queries(seed=seed) if queries is None else read_queries(queries)
    sampling = Sampling(temperature, top_p, max_tokens)
    loaded = load_engine(engine, model=model, device=device, batch_size=batch_size)
    with step("sampling") as update:
        manifest = sample(
            loaded,
            asked,
            out,
            target=target,
            sampling=sampling,
            seed=seed,
            on_progress=with_parts(loaded, lambda kept: update(kept, target)),
        )
    dropped = ", ".join(f"{n} {reason}" for reason, n in manifest.dropped.items()) or "none"
    console.print(f"{manifest.rows['kept']} pairs in {out}; dropped: {dropped}", soft_wrap=True)


def read_queries(path: Path) -> list[Query]:
    """Read queries from a file: a `query` or `instruction` column, or the question of a row.

    Raises:
        InputError: A row has no query.
    """
    queries = []
    for where, row in read_rows(path):
        text = row.get("query") or row.get("instruction")
        if isinstance(text, str) and isinstance(row.get("input"), str) and row["input"]:
            text = f"{text}\n\n{row['input']}"
        if text is None and isinstance(row.get("messages"), list):
            turns = [turn for turn in row["messages"] if isinstance(turn, dict)]
            asked = (turn.get("content") for turn in turns if turn.get("role") == "user")
            text = next(asked, None)
        if not isinstance(text, str) or not text.strip():
            raise InputError(
                f"{where}: the row has no query: give a 'query' or 'instruction' column, "
                "or messages with a user turn"
            )
        queries.append(Query(text, "user"))
    return queries
