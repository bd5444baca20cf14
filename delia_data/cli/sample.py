"""`delia sample`: sample a cache from the model itself, or estimate what that takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final

import typer

from delia_data.bundled_cache import BUNDLED as BUNDLED_CACHE
from delia_data.cli._flags import argument, option, with_options
from delia_data.cli._options import (
    JUDGE_HELP,
    EngineOptions,
    load_judge,
    model_option,
)
from delia_data.cli._output import AsJson, in_words, print_table, say, show_json, show_reading, step
from delia_data.engines import Sampling
from delia_data.engines.base import with_parts
from delia_data.errors import InputError
from delia_data.outputs import Manifest
from delia_data.sampling import (
    FileQueries,
    Interval,
    Limits,
    Progress,
    PromptOptions,
    RunEstimate,
    default_filters,
    estimate,
    load_queries,
    read_plan,
    sample,
)
from delia_data.sampling.filters import JUDGED, describe
from delia_data.sampling.generated_queries import BUNDLED, SELF, check_query_options
from delia_data.sampling.sampler import PROBE_ROWS
from delia_data.tokens import DEFAULT_TOKEN

QUERIES, FILTERS = "Queries", "Filters"
PROMPTS, LIMITS = "Prompts and sampling", "Limits"

FEWER: Final = 3
"""Exit code of a finished cache with fewer pairs than the target."""

_STOPPED: Final = {
    "queries": "the queries ran out; add more with --extend, or let the model write them "
    "(--queries self)",
    "budget": "the budget is spent; raise it and rerun to continue",
    "saturated": "new pairs add nothing new",
}


def _inherit(context: typer.Context, begin_from: str | None) -> str | None:
    """Make the settings of another cache the defaults of the options."""
    if begin_from is not None:
        context.default_map = {**(context.default_map or {}), **_options_of(read_plan(begin_from))}
    return begin_from


@with_options(
    panels={"sampling": PROMPTS, "prompts": PROMPTS, "limits": LIMITS},
    sampling=Sampling,
    prompts=PromptOptions,
    limits=Limits,
    by=EngineOptions,
)
def command(
    out: Path = argument("Cache folder. A rerun resumes."),
    target: int = option(
        ...,
        "Number of pairs to accept. Raise it to grow the cache, also with a higher "
        "--max-tokens or fewer filters.",
    ),
    begin_from: str | None = option(
        None,
        "Start with the pairs and the settings of another cache: bundled or a folder. "
        "Other options override its settings.",
        names=["--from"],
        complete=[BUNDLED_CACHE],
        callback=_inherit,
        is_eager=True,
    ),
    estimate_only: bool = option(
        False,
        "Estimate the tokens, hours and dollars of the run from a few rows, and exit.",
        names=["--estimate"],
    ),
    probe_rows: int = option(PROBE_ROWS, "Number of rows that --estimate requests."),
    queries: str = option(
        BUNDLED,
        "bundled; self (the model writes them); or a file, glob, folder or Hub id of "
        "queries in any row format.",
        QUERIES,
        complete=[BUNDLED, SELF],
    ),
    expand: int | None = option(
        None, "Number of queries that the model generates from those given.", QUERIES
    ),
    extend: bool = option(
        False, "Continue a cache with other queries than it was started with.", QUERIES
    ),
    model: str = model_option(),
    turns: int = option(
        1, "Number of answers in a pair; the model writes the user's turns in between.", PROMPTS
    ),
    seed: int = option(0, "Seed of the run.", PROMPTS),
    keep_truncated: bool = option(False, "Accept answers cut off at --max-tokens.", FILTERS),
    keep_refusals: bool = option(False, "Accept answers that decline.", FILTERS),
    language: str | None = option(
        None, "Accept answers in this language only, such as en.", FILTERS
    ),
    near_duplicates: float = option(
        0.8, "Similarity from which a pair is a near duplicate; 0 for exact ones only.", FILTERS
    ),
    similar: float | None = option(
        None,
        "Cosine similarity of embeddings, such as 0.9, from which a pair repeats the meaning "
        "of another. Default: compare words only.",
        FILTERS,
    ),
    judge: str | None = option(None, JUDGE_HELP.format(what="answer"), FILTERS),
    token: str = option(DEFAULT_TOKEN, "Special token, which no pair may contain.", FILTERS),
    keep_rejected: bool = option(False, "Write the texts of rejected pairs too.", FILTERS),
    keep_reasoning: bool = option(
        False, "Write the thoughts before each answer into the column reasoning.", PROMPTS
    ),
    stop_when_saturated: bool = option(False, "Stop when new pairs add nothing new.", LIMITS),
    as_json: AsJson = False,
    *,
    sampling: Sampling,
    prompts: PromptOptions,
    limits: Limits,
    by: EngineOptions,
) -> None:
    """Sample pairs from the model itself into a cache."""
    if probe_rows < 1:
        raise InputError(f"--probe-rows {probe_rows} is too few: give at least 1")
    if not queries:
        raise InputError(
            "the queries of the --from cache came from rows: give them, or others, with --queries"
        )
    saturation = None
    if stop_when_saturated:
        from delia_data.sampling import Saturation

        saturation = Saturation()
    # Loading an engine takes long, so queries are read before it if possible.
    generated = check_query_options(queries, expand=expand, exemplar=prompts.exemplar)
    source = None if generated else load_queries(queries, seed=seed, exemplar=prompts.exemplar)
    if isinstance(source, FileQueries):
        show_reading(queries, source.read)
    with ExitStack() as stack:
        verdicts = None if judge is None else stack.enter_context(closing(load_judge(judge, by)))
        filters = default_filters(
            token,
            keep_truncated=keep_truncated,
            keep_refusals=keep_refusals,
            language=language,
            near_duplicates=near_duplicates or None,
            similar=similar,
            judge=verdicts,
        )
        loaded = stack.enter_context(closing(by.load(model)))
        if source is None:
            source = load_queries(
                queries,
                engine=loaded,
                folder=out / "queries",
                seed=seed,
                token=token,
                expand=expand,
            )
        options: dict[str, Any] = {
            "target": target,
            "sampling": sampling,
            "seed": seed,
            "token": token,
            "prompts": prompts,
            "turns": turns,
            "filters": filters,
        }
        if estimate_only:
            with step("probing") as update:
                result = estimate(loaded, source, out, **options, rows=probe_rows)
                update(result.probed, result.probed)
            show_json(result) if as_json else _print_estimate(result)
            return
        with step("sampling") as update:
            latest: list[Progress] = []
            show_kept = with_parts(
                loaded,
                target,
                lambda kept: update(kept, target, _note(latest[-1])),
                requests=2 * turns - 1,
            )

            def show(progress: Progress) -> None:
                latest[:] = [progress]
                show_kept(progress.kept)

            manifest = sample(
                loaded,
                source,
                out,
                **options,
                limits=limits,
                saturation=saturation,
                keep_rejected=keep_rejected,
                keep_reasoning=keep_reasoning,
                begin_from=begin_from,
                extend=extend or begin_from is not None,
                on_progress=show,
            )
    fewer = manifest.rows["kept"] < target
    if as_json:
        show_json(manifest)
    else:
        _print_result(out, manifest)
        now = json.loads(json.dumps([describe(check) for check in filters]))
        if manifest.settings["sampling"] != sampling.as_dict() or _filters(manifest) != now:
            say("the target was met before: raise --target to sample with the new settings")
        if fewer:
            reason = _STOPPED[manifest.details["stopped"]]
            say(f"fewer than the target of {target}: {reason}")
    if fewer:
        raise typer.Exit(FEWER)


def _options_of(plan: dict[str, Any]) -> dict[str, Any]:
    """Return the options that a cache was started with; `queries` is empty if they were rows."""
    filters = {each if isinstance(each, str) else each["filter"]: each for each in plan["filters"]}
    queries = plan["queries"]["source"]
    return {
        **plan["sampling"],
        **plan["asking"],
        "model": plan["model"]["name"],
        "template_option": [
            f"{name}={json.dumps(value)}"
            for name, value in plan["model"].get("template_options", {}).items()
        ],
        "engine": plan["engine"],
        "turns": plan.get("turns", 1),
        "seed": plan["seed"],
        "token": plan["token"],
        "keep_truncated": "truncated" not in filters,
        "keep_refusals": "refusal" not in filters,
        "language": filters.get("language", {}).get("language"),
        "near_duplicates": filters.get("duplicates", {}).get("threshold") or 0.0,
        "similar": filters.get("duplicates", {}).get("similarity"),
        "queries": queries if queries in {BUNDLED, SELF} else "",
    }


def _note(progress: Progress) -> str:
    """Summarize the progress in a few words."""
    parts = [f"{progress.rows_per_s:.1f} rows/s", f"{progress.tokens_per_s:,.0f} tokens/s"]
    if progress.cost is None:
        parts.append("cost unknown")
    elif progress.cost:
        parts.append(f"${progress.cost:.4f}")
    for share, name in (
        (progress.accepted_share, "accepted"),
        (progress.near_duplicate_share, "near duplicates"),
        (progress.novelty, "new"),
    ):
        if share is not None:
            parts.append(f"{share:.0%} {name}")
    if progress.distinct_2 is not None:
        parts.append(f"distinct-2 {progress.distinct_2:.2f}")
    return ", ".join(parts)


def _print_result(out: Path, manifest: Manifest) -> None:
    dropped = in_words(manifest.dropped)
    details = manifest.details
    removed = details.get("reasoning_removed", 0)
    show_reading(out, {"changed": {"reasoning_removed": removed}})
    cost = "cost unknown" if details["cost_usd"] is None else f"${details['cost_usd']:.4f}"
    say(
        f"{manifest.rows['kept']} pairs in {out}; dropped: {dropped}; "
        f"{details['tokens']:,} tokens generated, {cost}"
    )
    if any(isinstance(each, dict) and each["filter"] == "judge" for each in _filters(manifest)):
        requested, accepted = manifest.rows["asked"], manifest.rows["kept"]
        passed = accepted + sum(manifest.dropped.get(reason, 0) for reason in JUDGED)
        before, after = passed / requested, accepted / requested
        say(f"accepted share: {before:.1%} before the judge, {after:.1%} after")
    if (earlier := details.get("earlier_settings")) and earlier[-1]["pairs"]:
        limits = dict.fromkeys(str(each["sampling"]["max_tokens"]) for each in earlier)
        say(
            f"{earlier[-1]['pairs']} of {manifest.rows['kept']} pairs have earlier settings "
            f"(max_tokens {', '.join(limits)})"
        )


def _filters(manifest: Manifest) -> list[Any]:
    filters: list[Any] = manifest.settings["filters"]
    return filters


def _print_estimate(result: RunEstimate) -> None:
    rejected = in_words(result.rejected)
    say(f"{result.kept} of {result.probed} rows accepted; rejected: {rejected}")
    rows = [
        ["rows to request", *_cells(result.rows, "{:,.0f}".format)],
        ["prompt tokens", *_cells(result.prompt_tokens, "{:,.0f}".format)],
        ["tokens to generate", *_cells(result.tokens, "{:,.0f}".format)],
        ["time at this speed", *_cells(result.hours, _duration)],
        ["dollars", *_cells(result.dollars, "{:,.4f}".format)],
    ]
    print_table(("", "low", "estimate", "high"), rows, right=1)
    if result.available is not None and result.rows.value > result.available:
        say(
            f"the queries provide only {result.available:,} rows: add queries, lower --target, or "
            "raise --answers-per-query"
        )


def _cells(interval: Interval | None, to_text: Callable[[float], str]) -> list[str]:
    if interval is None:
        return ["", "unknown", ""]
    return [to_text(value) for value in (interval.low, interval.value, interval.high)]


def _duration(hours: float) -> str:
    """Format hours in a unit that is easy to read."""
    if hours < 1 / 60:
        return f"{hours * 3600:.1f} s"
    return f"{hours * 60:.1f} min" if hours < 1 else f"{hours:,.1f} h"
