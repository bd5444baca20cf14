"""`delia lint`: is the token whole in every row of a mixture, as the model will see it?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pyarrow.parquet as pq
import typer

from delia_data.cli._console import console
from delia_data.errors import InputError, TokenError
from delia_data.manifest import read_manifest
from delia_data.models import DEFAULT_MODEL, load_tokenizer
from delia_data.records import read_record
from delia_data.tokens import add_token_to_tokenizer, lint

__all__ = ["command", "mixture_rows"]


def command(
    mixture: Annotated[Path, typer.Argument(help="Folder of a finished mixture.")],
    model: Annotated[str, typer.Option(help="Embedded model's name, folder or Hub id.")] = (
        DEFAULT_MODEL
    ),
    max_length: Annotated[
        int | None, typer.Option(help="Tokens that training keeps of a row; all if not given.")
    ] = None,
) -> None:
    """Prove on the tokenised rows that the token is whole."""
    rows = [(read_record(row), row["source"] == "task") for row in mixture_rows(mixture)]
    token = read_manifest(mixture).settings.get("token")
    if not token:
        raise InputError(f"{mixture} was mixed without a token: there is nothing to lint")
    tokenizer = load_tokenizer(model)
    add_token_to_tokenizer(tokenizer, token)
    problems = lint(rows, tokenizer, token=token, max_length=max_length)
    for problem in problems[:20]:
        console.print(f"row {problem.row}: {problem.reason}", soft_wrap=True)
    if problems:
        raise TokenError(f"{mixture}: {len(problems)} problems in {len(rows)} rows: mend them")
    console.print(f"{len(rows)} rows: {token} is whole in every one", soft_wrap=True)


def mixture_rows(folder: Path) -> list[dict[str, object]]:
    """Read the training rows of a finished mixture.

    Raises:
        InputError: The folder holds something else.
        UnfinishedError: It has no finish marker.
    """
    manifest = read_manifest(folder)
    if manifest.kind != "mixture":
        raise InputError(
            f"{folder} holds a {manifest.kind}, not a mixture: give a mixture's folder"
        )
    shards = sorted(folder.glob("train*.parquet"))
    return [row for shard in shards for row in pq.read_table(shard).to_pylist()]
