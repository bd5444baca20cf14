"""`delia evaluate`: follow, leak, obey, keep, right and save, between two bounds."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import typer

from delia_data.cli._flags import argument, option, with_options
from delia_data.cli._options import EngineOptions
from delia_data.cli._output import AsJson, messages, say, show_json, show_notes, show_table, step
from delia_data.errors import InputError
from delia_data.evaluation import (
    PROBES,
    EvalTask,
    Evaluation,
    compare_folders,
    evaluate,
    make_probes,
    missed_bounds,
    open_system,
    parse_gate,
    read_evaluation,
)
from delia_data.evaluation.evaluate import check_output
from delia_data.evaluation.generation import MODEL, SYSTEMS
from delia_data.evaluation.probes import DEFAULT_PROBES
from delia_data.evaluation.tables import comparison_table, evaluation_notes, evaluation_tables
from delia_data.evaluation.translation import METRICS, load_metrics

_COMPARISON = "Comparison"
METRIC_HELP = f"Translation score: {', '.join(METRICS)}; the last two as NAME=CHECKPOINT."


@with_options(by=EngineOptions)
def command(
    model: str = argument(
        "Adapter of delia train, or a model as the engine takes it. With --against and "
        "no other argument: folder of a finished evaluation."
    ),
    task: Path | None = argument(
        "Task folder of delia diversify.", default=None, show_default=False
    ),
    out: Path | None = argument(
        "Folder for the evaluation; a rerun continues there.", default=None, show_default=False
    ),
    probe: list[str] | None = option(
        None,
        f"Probe to run, of {', '.join(PROBES)}. Default: {', '.join(DEFAULT_PROBES)}.",
        complete=PROBES,
    ),
    rows: int | None = option(None, "Greatest number of held-out rows. A larger number adds rows."),
    max_tokens: int = option(96, "Greatest number of tokens in an answer."),
    max_thinking_tokens: int | None = option(
        None, "Greatest number of tokens in the thoughts before an answer. Default: 2,048."
    ),
    pattern: str | None = option(
        None, "Regular expression that a whole answer matches, for free-text answers."
    ),
    metric: list[str] | None = option(
        None, f"{METRIC_HELP} Default for translation tasks: chrf and bleu."
    ),
    untrained: str | None = option(
        None,
        "Untrained model, or folder of its finished evaluation, for leak and keep. Not "
        "for an adapter, whose model is untrained with the adapter off.",
    ),
    tokenizer: str | None = option(
        None, "Model whose tokenizer counts prompt tokens, for a served model."
    ),
    pairs: str = option(
        "bundled",
        "Held-out pairs for the KL divergence: a cache or a file; at most 150 are used, "
        "those that a mixture takes last.",
    ),
    general: bool = option(
        False, "Also ask 60 general requests with verifiable constraints.", names=["--general"]
    ),
    general_tasks: str | None = option(
        None,
        "Tasks of lm-eval, separated by commas; a name or a YAML file. Needs the extra general.",
    ),
    other: list[Path] | None = option(
        None,
        "Task folder of another token of the model, for a table of the formats that "
        "answers have under each token; repeatable.",
    ),
    gate: str | None = option(
        None, "Bounds, such as follow=0.9,leak=0.02,kl=0.02; exit with code 4 if one is missed."
    ),
    against: Path | None = option(
        None, "Finished evaluation of the same task to compare with, row by row.", _COMPARISON
    ),
    seed: int = option(0, "Seed of rows, wordings, and intervals."),
    as_json: AsJson = False,
    *,
    by: EngineOptions,
) -> None:
    """Evaluate a model: does it follow the token, and is it otherwise the model it was?"""
    bounds = parse_gate(gate) if gate is not None else {}
    if task is None and out is None and against is not None:
        if bounds:
            raise InputError("--gate takes the numbers of an evaluation: give MODEL, TASK and OUT")
        show_comparison(Path(model), against, metric, seed=seed, as_json=as_json)
        return
    if task is None or out is None:
        raise InputError(
            "delia evaluate needs MODEL, TASK and OUT; to compare two finished evaluations, give "
            "one folder and --against with the other"
        )
    if against is not None:
        read_evaluation(against)  # before a model is loaded
    check_output(out)
    eval_task = EvalTask.read(task, rule=pattern)
    others = [EvalTask.read(folder) for folder in other or ()]
    if metric is None and eval_task.scoring == "translation":
        metric = ["chrf", "bleu"]
    metrics = load_metrics(metric or ())
    probes = [*(probe or DEFAULT_PROBES), *(["general"] if general else [])]
    make_probes(eval_task, probes, rows=rows, seed=seed)  # before a model is loaded
    opened = open_system(
        model,
        by.engine,
        by.values(),
        token=eval_task.token,
        untrained=untrained,
        tokenizer=tokenizer,
    )
    with closing(opened), step("answers", to=messages if as_json else None) as update:
        scores = evaluate(
            opened,
            eval_task,
            out,
            probes=probes,
            rows=rows,
            max_tokens=max_tokens,
            max_thinking_tokens=max_thinking_tokens,
            pairs=pairs,
            general_tasks=general_tasks.split(",") if general_tasks else (),
            others=others,
            seed=seed,
            metrics=metrics,
            on_progress=update,
        )
    if against is not None:
        if not as_json:
            print_evaluation(scores)
        show_comparison(out, against, metric, seed=seed, as_json=as_json)
    elif as_json:
        show_json(scores)
    else:
        print_evaluation(scores)
    if not as_json:
        say(f"\nAll answers: {out}")
    if missed := missed_bounds(scores, bounds):
        messages.print(f"delia: gate missed: {'; '.join(missed)}", markup=False, soft_wrap=True)
        raise typer.Exit(4)


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the tables and the notes of an evaluation."""
    for table in evaluation_tables({SYSTEMS[MODEL]: evaluation}):
        show_table(table)
    show_notes(evaluation_notes(evaluation))


def show_comparison(
    evaluation: Path, against: Path, metric: list[str] | None, *, seed: int, as_json: bool
) -> None:
    """Print the difference of two finished evaluations."""
    metrics = load_metrics(metric or ())
    comparison = compare_folders(evaluation, against, seed=seed, metrics=metrics)
    if as_json:
        show_json(comparison)
    else:
        show_table(comparison_table({str(evaluation): comparison}, str(against)))
        show_notes(comparison.notes)
