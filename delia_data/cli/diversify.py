"""`delia diversify`: a task whose every row has its own wording."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from delia_data.cli import _engine_options as by
from delia_data.cli import _task_options as given
from delia_data.cli._completion import among
from delia_data.cli._console import console
from delia_data.cli._diversifying import BUNDLED, MODEL, Diversified, Diversifying
from delia_data.cli._json import AsJson, show_json
from delia_data.models import DEFAULT_MODEL
from delia_data.outputs import read_manifest
from delia_data.tasks import BUNDLED_TASKS, READY_TASKS
from delia_data.tokens import DEFAULT_TOKEN

_WORDINGS = "Wordings"


def command(
    out: Annotated[Path, typer.Argument(help="Folder of the diversified task.")],
    task: Annotated[
        str,
        typer.Option(
            help=f"File, glob, folder or Hub id of rows; or one of {', '.join(READY_TASKS)}.",
            autocompletion=among(READY_TASKS),
        ),
    ] = BUNDLED_TASKS[0],
    wordings_from: Annotated[
        str | None,
        typer.Option(
            help=f"{BUNDLED}, {MODEL}, or a file of yours; {BUNDLED} where the task has some.",
            autocompletion=among([BUNDLED, MODEL]),
            rich_help_panel=_WORDINGS,
        ),
    ] = None,
    wordings: Annotated[
        int | None,
        typer.Option(
            help="Accepted wordings, those set aside included; of a list all, of a model 40.",
            rich_help_panel=_WORDINGS,
        ),
    ] = None,
    tries: Annotated[
        int | None,
        typer.Option(
            help="Texts that the model may write; 20 for each wording.", rich_help_panel=_WORDINGS
        ),
    ] = None,
    times: Annotated[
        int, typer.Option(help="How often a wording names the token.", rich_help_panel=_WORDINGS)
    ] = 1,
    held_out_share: Annotated[
        float,
        typer.Option(
            help="Share of wordings set aside for held-out rows, where none is marked.",
            rich_help_panel=_WORDINGS,
        ),
    ] = 0.2,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Tokenizer in which the token must be one id; that of a local model.",
            rich_help_panel=_WORDINGS,
        ),
    ] = None,
    embeddings: Annotated[
        bool,
        typer.Option(
            help="Judge meaning and spread by embeddings; bundled ones are judged already.",
            rich_help_panel=_WORDINGS,
        ),
    ] = True,
    any_language: Annotated[
        bool,
        typer.Option(
            "--any-language", help="Take wordings in any language.", rich_help_panel=_WORDINGS
        ),
    ] = False,
    lenient: Annotated[
        bool,
        typer.Option(
            "--lenient",
            help="Judge what a model writes as if written by hand: for large models.",
            rich_help_panel=_WORDINGS,
        ),
    ] = False,
    engine: by.EngineName = "transformers",
    model: by.Model = DEFAULT_MODEL,
    device: by.Device = None,
    batch_size: by.BatchSize = None,
    api_base: by.ApiBase = None,
    concurrency: by.Concurrency = None,
    rpm: by.Rpm = None,
    tpm: by.Tpm = None,
    engine_option: by.EngineOption = None,
    temperature: Annotated[
        float, typer.Option(help="0 takes the likeliest token.", rich_help_panel="Engine")
    ] = 0.7,
    query: given.Query = None,
    answer: given.Answer = None,
    format: given.Format = None,
    instruction: given.Instruction = None,
    instruction_column: given.InstructionColumn = None,
    last_paragraph: given.LastParagraph = False,
    stands_for: given.StandsFor = None,
    request: given.Request = "",
    meaning: given.Meaning = None,
    key: given.Key = None,
    scoring: given.Scoring = None,
    token: given.Token = DEFAULT_TOKEN,
    avoid: given.Avoid = None,
    name: given.Name = None,
    test: given.Test = None,
    test_share: given.TestShare = None,
    rows: given.Rows = None,
    seed: given.Seed = 0,
    data: given.Data = None,
    from_language: given.FromLanguage = "en",
    to_language: given.ToLanguage = "is",
    as_json: AsJson = False,
) -> None:
    """Give every row of a task its own wording of the instruction, checked."""
    options = dict(locals())
    reading = given.Reading.of(options)
    job = Diversifying.of(options)
    made = job.run(reading.read(task))
    if as_json:
        show_json(read_manifest(out))
    else:
        _print(out, made)


def _print(out: Path, made: Diversified) -> None:
    rejected = ", ".join(f"{n} {reason}" for reason, n in made.gates.counts.items()) or "none"
    console.print(
        f"{len(made.rows.train)} training and {len(made.rows.test)} held-out rows in "
        f"{len(made.gates.accepted)} wordings in {out}; wordings rejected: {rejected}",
        soft_wrap=True,
    )
    if made.run is not None:
        console.print(
            f"{made.run.gates.share:.1%} of {made.run.tries:,} texts passed, "
            f"{made.run.tokens:,} tokens written",
            soft_wrap=True,
        )
    if made.anisotropy is not None:
        own, swaps = made.anisotropy.wordings, made.anisotropy.synonyms
        console.print(
            f"spread: effective rank {own.effective_rank:.1f}, mean distance "
            f"{own.mean_distance:.2f}; {swaps.texts} synonym swaps of one sentence: "
            f"{swaps.effective_rank:.1f}, {swaps.mean_distance:.2f}",
            soft_wrap=True,
        )
