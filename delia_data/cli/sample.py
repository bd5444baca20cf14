"""`delia sample`: a cache of pairs in the model's own words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from delia_data.bundled_cache import BUNDLED as BUNDLED_CACHE
from delia_data.cli import _engine_options as by
from delia_data.cli._completion import among
from delia_data.cli._console import console, step, with_parts
from delia_data.cli._json import AsJson, show_json
from delia_data.cli._sampling import BUNDLED, SELF, Job, options_of
from delia_data.errors import InputError
from delia_data.models import DEFAULT_MODEL
from delia_data.outputs import Manifest
from delia_data.sampling import Progress, read_plan, sample
from delia_data.tokens import DEFAULT_TOKEN

_QUERIES, _ASKING = "Queries", "Asking"
_KEPT, _LIMITS = "What is kept", "Limits"

FEWER = 3
"""Exit code of a cache that is finished, and holds fewer pairs than were asked for."""

_STOPPED = {
    "queries": "the queries ran out: give more with --extend, or let the model write them "
    "(--queries self)",
    "budget": "the budget is spent: give a higher one to go on",
    "saturated": "new pairs say nothing new",
}


def command(
    context: typer.Context,
    out: Annotated[Path, typer.Argument(help="Folder of the cache; a rerun goes on there.")],
    target: Annotated[int, typer.Option(help="Pairs to keep; a higher one later on grows it.")],
    begin_from: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Begin with the pairs of another cache, bundled or a folder, and with those of "
            "its settings that are not given.",
            autocompletion=among([BUNDLED_CACHE]),
        ),
    ] = None,
    queries: Annotated[
        str,
        typer.Option(
            help="bundled; self: the model writes them; or a file, glob, folder or Hub id of "
            "queries, in any row format.",
            autocompletion=among([BUNDLED, SELF]),
            rich_help_panel=_QUERIES,
        ),
    ] = BUNDLED,
    expand: Annotated[
        int | None,
        typer.Option(
            help="Let the model grow so many queries from those given.", rich_help_panel=_QUERIES
        ),
    ] = None,
    model: by.Model = DEFAULT_MODEL,
    engine: by.EngineName = "transformers",
    device: by.Device = None,
    batch_size: by.BatchSize = None,
    api_base: by.ApiBase = None,
    concurrency: by.Concurrency = None,
    rpm: by.Rpm = None,
    tpm: by.Tpm = None,
    engine_option: by.EngineOption = None,
    temperature: Annotated[
        float, typer.Option(help="0 takes the likeliest token.", rich_help_panel=_ASKING)
    ] = 0.7,
    top_p: Annotated[
        float, typer.Option(help="Probability mass that is drawn from.", rich_help_panel=_ASKING)
    ] = 0.95,
    max_tokens: Annotated[
        int, typer.Option(help="Tokens of an answer at most.", rich_help_panel=_ASKING)
    ] = 512,
    system: Annotated[
        str | None, typer.Option(help="System prompt.", rich_help_panel=_ASKING)
    ] = None,
    exemplar: Annotated[
        bool,
        typer.Option(
            help="Show the query's known answer first, as the paper's code does.",
            rich_help_panel=_ASKING,
        ),
    ] = False,
    answers_per_query: Annotated[
        int, typer.Option(help="Answers to draw for each query.", rich_help_panel=_ASKING)
    ] = 1,
    keep_truncated: Annotated[
        bool,
        typer.Option(help="Keep answers that were cut off at --max-tokens.", rich_help_panel=_KEPT),
    ] = False,
    keep_refusals: Annotated[
        bool, typer.Option(help="Keep answers that decline.", rich_help_panel=_KEPT)
    ] = False,
    language: Annotated[
        str | None,
        typer.Option(
            help="Keep answers in this language alone, such as en.", rich_help_panel=_KEPT
        ),
    ] = None,
    near_duplicates: Annotated[
        float,
        typer.Option(
            help="Similarity from which a pair is one too many; 0 for exact ones.",
            rich_help_panel=_KEPT,
        ),
    ] = 0.8,
    budget_usd: Annotated[
        float | None,
        typer.Option(help="Dollars that the whole cache may cost.", rich_help_panel=_LIMITS),
    ] = None,
    budget_tokens: Annotated[
        int | None,
        typer.Option(help="Tokens that may be read and written for it.", rich_help_panel=_LIMITS),
    ] = None,
    max_failures: Annotated[
        int, typer.Option(help="Rows that may fail for good.", rich_help_panel=_LIMITS)
    ] = 100,
    retries: Annotated[
        int, typer.Option(help="Times that a failed row is asked again.", rich_help_panel=_LIMITS)
    ] = 1,
    token: Annotated[
        str, typer.Option(help="Special token; no pair may name it.", rich_help_panel=_KEPT)
    ] = (DEFAULT_TOKEN),
    seed: Annotated[int, typer.Option(help="Seed of the run.", rich_help_panel=_ASKING)] = 0,
    keep_rejected: Annotated[
        bool, typer.Option(help="Keep the texts of rejected pairs as well.", rich_help_panel=_KEPT)
    ] = False,
    extend: Annotated[
        bool,
        typer.Option(
            help="Go on with other queries than it was begun with.", rich_help_panel=_QUERIES
        ),
    ] = False,
    stop_when_saturated: Annotated[
        bool, typer.Option(help="Stop when new pairs say nothing new.", rich_help_panel=_LIMITS)
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Sample pairs from the model itself into a cache."""
    given = dict(locals())  # all options under their own names
    if begin_from is not None:
        given |= _options_left_out(context, options_of(read_plan(begin_from)))
    job = Job(
        **{name: given[name] for name in Job.__dataclass_fields__ if name != "engine_option"},
        engine_option=engine_option or (),
    )
    saturation = None
    if stop_when_saturated:
        from delia_data.sampling.coverage import Saturation

        saturation = Saturation()
    with (
        job.opened() as (loaded, asked),
        step("sampling") as update,
    ):
        last: list[Progress] = []
        tell = with_parts(loaded, lambda kept: update(kept, target, _note(last[-1])))

        def show(progress: Progress) -> None:
            last[:] = [progress]
            tell(progress.kept)

        manifest = sample(
            loaded,
            asked,
            out,
            target=target,
            sampling=job.sampling,
            seed=job.seed,
            token=job.token,
            asking=job.asking,
            filters=job.filters(),
            limits=job.limits,
            saturation=saturation,
            keep_rejected=keep_rejected,
            begin_from=begin_from,
            extend=extend or begin_from is not None,
            on_progress=show,
        )
    if as_json:
        show_json(manifest)
    else:
        _print(out, manifest)
        if manifest.rows["kept"] < target:
            reason = _STOPPED[manifest.details["stopped"]]
            console.print(f"fewer than the {target} asked for: {reason}", soft_wrap=True)
    if manifest.rows["kept"] < target:
        raise typer.Exit(FEWER)


def _options_left_out(context: typer.Context, known: dict[str, Any]) -> dict[str, Any]:
    """Those of the known options that the command line does not give.

    Raises:
        InputError: Queries are needed, and neither known nor given.
    """
    given = {
        name
        for name in context.params
        if (source := context.get_parameter_source(name)) and source.name != "DEFAULT"
    }
    if "queries" not in {*known, *given}:
        raise InputError("the queries of that cache were rows: give them, or others (--queries)")
    return {name: value for name, value in known.items() if name not in given}


def _note(progress: Progress) -> str:
    """How it goes, in a few words."""
    parts = [f"{progress.rows_per_s:.1f} rows/s", f"{progress.tokens_per_s:,.0f} tokens/s"]
    if progress.cost is None:
        parts.append("cost unknown")
    elif progress.cost:
        parts.append(f"${progress.cost:.4f}")
    for share, name in (
        (progress.accepted_share, "kept"),
        (progress.near_duplicate_share, "near duplicates"),
        (progress.novelty, "new"),
    ):
        if share is not None:
            parts.append(f"{share:.0%} {name}")
    if progress.distinct_2 is not None:
        parts.append(f"distinct-2 {progress.distinct_2:.2f}")
    return ", ".join(parts)


def _print(out: Path, manifest: Manifest) -> None:
    dropped = ", ".join(f"{n} {reason}" for reason, n in manifest.dropped.items()) or "none"
    details = manifest.details
    cost = "cost unknown" if details["cost_usd"] is None else f"${details['cost_usd']:.4f}"
    console.print(
        f"{manifest.rows['kept']} pairs in {out}; dropped: {dropped}; "
        f"{details['tokens']:,} tokens written, {cost}",
        soft_wrap=True,
    )
