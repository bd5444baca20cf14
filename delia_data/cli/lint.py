"""`delia lint`: is the token whole in every row, and is the loss on the answers alone?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from delia_data.cli._console import console
from delia_data.cli._json import AsJson, show_json
from delia_data.errors import InputError, TokenError
from delia_data.models import DEFAULT_MODEL, load_tokenizer
from delia_data.outputs import read_manifest
from delia_data.records import Record, read_record
from delia_data.tokens import (
    DEFAULT_TOKEN,
    LOSSES,
    LintReport,
    Loss,
    add_token_to_tokenizer,
    lint_rows,
)
from delia_data.training.data import Source, open_source

_PROBLEMS_SHOWN = 20


def command(
    mixture: Annotated[
        str, typer.Argument(help="Mixture's folder, delia://..., or what load_dataset reads.")
    ],
    model: Annotated[
        str, typer.Option(help="Embedded model's name, folder (delia prepare's too) or Hub id.")
    ] = DEFAULT_MODEL,
    loss: Annotated[
        Loss,
        typer.Option(
            help="How training tells the answers from the rest: the prompt by itself, or the "
            "chat template's {% generation %} marks."
        ),
    ] = LOSSES[0],
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens that training keeps of a row; all by default.")
    ] = None,
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Rows longer than that are shortened, not refused.")
    ] = False,
    token: Annotated[
        list[str] | None,
        typer.Option(help="The special token, for rows that do not say theirs; repeatable."),
    ] = None,
    show: Annotated[
        int, typer.Option(min=0, help="Task rows and pairs to show, labelled parts in [[ ]].")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Prove on tokenised rows that the token is whole and the loss on the answers alone."""
    if truncate and max_length is None:
        raise InputError("--truncate shortens rows to --max-length tokens: give that too")
    tokenizer = load_tokenizer(model)
    source = open_source(mixture)
    tokens = _tokens(source, token)
    for each in tokens:
        add_token_to_tokenizer(tokenizer, each)
    report = lint_rows(
        _records(source, tokens),
        tokenizer,
        tokens=tokens,
        max_length=max_length,
        truncate=truncate,
        loss=loss,
        examples=show,
    )
    if as_json:
        show_json({"special_tokens": tokens, "loss": loss, **report.as_dict()})
    else:
        _print(report, tokens, max_length)
    if report.problems:
        rows = sum(report.rows.values())
        raise TokenError(f"{mixture}: {len(report.problems)} problems in {rows} rows: mend them")


def _tokens(source: Source, given: Sequence[str] | None) -> list[str]:
    """The tokens that task rows name: those of the mixture's manifest, where it has one."""
    known = source.tokens
    if known is None:
        return list(given or [DEFAULT_TOKEN])
    if given and sorted(given) != sorted(known):
        raise TokenError(
            f"{source.name} was mixed with {', '.join(known) or 'no token'}, and "
            f"{', '.join(given)} was given: leave --token out"
        )
    return known


def _records(source: Source, tokens: Sequence[str]) -> Iterator[tuple[Record, bool]]:
    """Records, each with whether it is a task row: told by its token where nothing else does."""
    for row in source.rows:
        record = read_record(row)
        named = any(token in turn.content for turn in record.prompt for token in tokens)
        yield record, row["source"] == "task" if row.get("source") else named


def _print(report: LintReport, tokens: Sequence[str], max_length: int | None) -> None:
    for example in report.examples:
        console.print(Text(f"row {example.row}, {_NAMES[example.source]}:", style="bold"))
        shown = Text()
        for text, labelled in example.parts:
            shown.append(f"[[{text}]]" if labelled else text, style="green" if labelled else "")
        console.print(shown, soft_wrap=True)
    for problem in report.problems[:_PROBLEMS_SHOWN]:
        where = f"row {problem.row}" if problem.row >= 0 else "tokenizer"
        console.print(Text(f"{where}: {problem.reason}"), soft_wrap=True)
    left = len(report.problems) - _PROBLEMS_SHOWN
    if left > 0:
        console.print(f"... and {left} more; --json has them all", soft_wrap=True)
    for source, rows in report.rows.items():
        kept, counted = report.tokens.get(source, 0), report.labelled.get(source, 0)
        console.print(
            f"{rows} {_NAMES[source]}{'s' * (rows != 1)}: {kept} tokens, the loss on {counted}",
            soft_wrap=True,
        )
    cut = f"; rows of more than {max_length}: {report.cut}" if report.cut else ""
    console.print(f"longest row: {report.longest} tokens{cut}", soft_wrap=True)
    if not report.problems:
        whole = f"{', '.join(tokens)} whole in every one, " if tokens else ""
        rows = sum(report.rows.values())
        console.print(
            f"{rows} rows: {whole}the labelled tokens are the answers and their ends",
            soft_wrap=True,
        )


_NAMES = {"task": "task row", "cache": "pair"}


def mixture_rows(folder: Path) -> list[dict[str, Any]]:
    """Read the training rows of a finished mixture.

    Raises:
        InputError: The folder holds something else.
        UnfinishedError: It has no finish marker.
    """
    read_manifest(folder)
    return [dict(row) for row in open_source(folder).rows]
