"""`delia evaluate`: what a model answers with the token and without it, selectivity first."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from delia_data.cli import _engine_options as by
from delia_data.cli._completion import among
from delia_data.cli._console import console, messages, step
from delia_data.cli._json import AsJson, show_json
from delia_data.cli._score_tables import print_evaluation
from delia_data.evaluation import PROBES, EvalTask, evaluate, make_probes
from delia_data.evaluation.evaluate import open_system
from delia_data.evaluation.translation import METRICS, load_metrics

_CORPUS = ("chrf", "bleu")


def command(
    model: Annotated[
        str, typer.Argument(help="An adapter of delia train, or a model as the engine takes it.")
    ],
    task: Annotated[Path, typer.Argument(help="Task folder that delia diversify wrote.")],
    out: Annotated[Path, typer.Argument(help="Folder of the evaluation; a rerun goes on there.")],
    probe: Annotated[
        list[str] | None,
        typer.Option(
            help=f"What is asked, of {', '.join(PROBES)}; all if not given.",
            autocompletion=among(PROBES),
        ),
    ] = None,
    rows: Annotated[
        int | None, typer.Option(help="Held-out rows to ask at most; a higher number adds some.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens of an answer at most.")] = 96,
    add_token: Annotated[
        str | None,
        typer.Option(
            "--add-token",
            metavar="INIT",
            help="Add the token to a model without it, its embedding begun as mean or normal.",
        ),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(
            help="Regular expression of a whole answer in the format, for answers of free text."
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Score of translations, of {', '.join(METRICS)}; the last two with =CHECKPOINT. "
            "chrf and bleu for a task of translations if not given."
        ),
    ] = None,
    engine: by.EngineName = "transformers",
    device: by.Device = None,
    batch_size: by.BatchSize = None,
    api_base: by.ApiBase = None,
    concurrency: by.Concurrency = None,
    rpm: by.Rpm = None,
    tpm: by.Tpm = None,
    engine_option: by.EngineOption = None,
    seed: Annotated[int, typer.Option(help="Seed of rows, wordings and intervals.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Evaluate a model on held-out rows, with the token and without it."""
    asked = EvalTask.read(task, rule=pattern)
    metrics = load_metrics(_CORPUS if _wants_corpus(asked, metric) else metric or ())
    make_probes(asked, probe or PROBES, rows=rows, seed=seed)  # before a model is loaded
    named = {
        "device": device,
        "batch_size": batch_size,
        "api_base": api_base,
        "concurrency": concurrency,
        "rpm": rpm,
        "tpm": tpm,
    }
    options = by.engine_options(named, engine_option or ())
    opened, notes = open_system(model, engine, options, token=asked.token, add=add_token, seed=seed)
    with closing(opened), step("asking", to=messages if as_json else None) as update:
        found = evaluate(
            opened,
            asked,
            out,
            probes=probe or PROBES,
            rows=rows,
            max_tokens=max_tokens,
            seed=seed,
            metrics=metrics,
            notes=notes,
            on_progress=update,
        )
    if as_json:
        show_json(found)
        return
    print_evaluation(found)
    console.print(f"\nevery answer is in {out}", soft_wrap=True)


def _wants_corpus(task: EvalTask, metric: list[str] | None) -> bool:
    return metric is None and task.scoring == "translation"
