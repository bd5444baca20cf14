"""`delia diversify`: give every row of a task its own wording."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from delia_data.cli._flags import argument, option, with_options
from delia_data.cli._options import (
    JUDGE_HELP,
    EngineOptions,
    TaskOptions,
    load_judge,
    model_option,
)
from delia_data.cli._output import AsJson, in_words, say, show_json, show_reading, step
from delia_data.diversify import DiversifiedTask, make_task_folder
from delia_data.diversify.contrast import DEFAULT_KINDS
from delia_data.diversify.folder import BUNDLED, CONTRAST_SAMPLING, MODEL
from delia_data.diversify.generate import WORDING_SAMPLING
from delia_data.models import load_tokenizer
from delia_data.sampling.budget import Limits
from delia_data.tasks import BUNDLED_TASKS, READY_TASKS, ready_wordings

_WORDINGS, _CONTRAST, _LIMITS = "Wordings", "Contrast rows", "Limits"


@with_options(options=TaskOptions, by=EngineOptions)
def command(
    out: Path = argument("Folder of the diversified task."),
    task: str = option(
        BUNDLED_TASKS[0],
        f"File, glob, folder, or Hub id of rows; or one of {', '.join(READY_TASKS)}.",
        complete=READY_TASKS,
    ),
    wordings_from: str | None = option(
        None,
        f"{BUNDLED}, {MODEL}, or your own file. Default: {BUNDLED} if the task has some, "
        f"else {MODEL}.",
        _WORDINGS,
        complete=[BUNDLED, MODEL],
    ),
    wordings: int | None = option(
        None,
        "Wordings to accept, those for held-out rows included. Default: all of a file, 40 "
        "of a model.",
        _WORDINGS,
    ),
    tries: int | None = option(
        None,
        "Maximum number of texts that the model writes. Default: 20 for each wording.",
        _WORDINGS,
    ),
    held_out_share: float = option(
        0.2, "Share of the wordings for held-out rows, if none is marked as such.", _WORDINGS
    ),
    tokenizer: str | None = option(
        None,
        "Model in whose tokenizer the token must be a single id. Default: the local model "
        "that writes the wordings.",
        _WORDINGS,
    ),
    embeddings: bool = option(
        True,
        "Check meaning and measure diversity with embeddings; bundled wordings are "
        "checked already.",
        _WORDINGS,
    ),
    any_language: bool = option(
        False, "Accept wordings in any language.", _WORDINGS, names=["--any-language"]
    ),
    lenient: bool = option(
        False,
        "Check wordings of a model like those of a person; for large models.",
        _WORDINGS,
        names=["--lenient"],
    ),
    judge: str | None = option(None, JUDGE_HELP.format(what="wording"), _WORDINGS),
    contrast: float = option(
        0.0,
        "Contrast rows for each training row, such as 0.5: requests near the task that "
        "the untrained model (--model) answers without the format. 0 for none.",
        _CONTRAST,
    ),
    contrast_kinds: str = option(
        ",".join(DEFAULT_KINDS),
        "Kinds of contrast rows: the request without the token (plain), one that forbids "
        "its format (forbid), one that only mentions it (mention), a question about it "
        "(about). They take turns; a kind that is given twice has twice the rows.",
        _CONTRAST,
    ),
    contrast_max_tokens: int = option(
        CONTRAST_SAMPLING.max_tokens,
        "Maximum number of tokens of an answer; answers that are cut off are dropped.",
        _CONTRAST,
    ),
    budget_usd: float | None = option(
        None,
        "Maximum cost in dollars of all that the model writes, earlier runs included.",
        _LIMITS,
    ),
    budget_tokens: int | None = option(
        None, "Maximum number of prompt and generated tokens, earlier runs included.", _LIMITS
    ),
    model: str = model_option(),
    temperature: float = option(0.7, "Sampling temperature; 0 decodes greedily.", "Engine"),
    as_json: AsJson = False,
    *,
    options: TaskOptions,
    by: EngineOptions,
) -> None:
    """Give every row of a task its own wording of the instruction, checked."""
    read = options.read(task)
    by_model = wordings_from == MODEL or not (
        wordings_from or ready_wordings(read.name, read.token)
    )
    if tokenizer is None and by_model and by.engine == "transformers":
        tokenizer = model
    is_silent = wordings_from != MODEL and not contrast and judge is None
    title = "answering" if judge is None else "judging"
    title = "writing wordings" if wordings_from == MODEL else title
    with nullcontext(lambda *_: None) if is_silent else step(title) as update:
        made = make_task_folder(
            read,
            out,
            wordings=wordings_from,
            count=wordings,
            held_out_share=held_out_share,
            tokenizer=None if tokenizer is None else load_tokenizer(tokenizer),
            embed=embeddings,
            engine=lambda: by.load(model),
            tries=tries,
            sampling=replace(WORDING_SAMPLING, temperature=temperature),
            any_language=any_language,
            lenient=lenient,
            judge=None if judge is None else lambda: load_judge(judge, by),
            contrast=contrast,
            contrast_kinds=tuple(kind.strip() for kind in contrast_kinds.split(",")),
            contrast_sampling=replace(
                CONTRAST_SAMPLING, temperature=temperature, max_tokens=contrast_max_tokens
            ),
            limits=Limits(budget_usd, budget_tokens),
            seed=options.seed,
            on_progress=lambda done, wanted, tried, most: update(
                done, wanted, f"{tried} of {most} texts"
            ),
            on_answer=lambda done, wanted: update(done, wanted, "answers of contrast rows"),
        )
    if as_json:
        show_json(made.manifest)
    else:
        show_reading(task, read.read)
        _print(out, made)


def _print(out: Path, made: DiversifiedTask) -> None:
    rejected = in_words(made.gates.counts)
    say(
        f"{len(made.rows.train)} training and {len(made.rows.test)} held-out rows in "
        f"{len(made.gates.accepted)} wordings in {out}; wordings rejected: {rejected}"
    )
    details = made.manifest.details
    if writing := details.get("writing"):
        say(
            f"{writing['accepted_share']:.1%} of {writing['tries']:,} texts passed, "
            f"{writing['tokens']:,} tokens written"
        )
    if judge := details.get("judge"):
        say(
            f"accepted share: {judge['accepted_share_before']:.1%} before the judge, "
            f"{judge['accepted_share_after']:.1%} after"
        )
    if contrast := details.get("contrast"):
        kinds = in_words(contrast["kinds"])
        lost = in_words(contrast["dropped"])
        say(
            f"{len(made.rows.contrast)} contrast rows ({kinds}); answers dropped: {lost}; "
            f"{contrast['tokens']:,} tokens written"
        )
    if spread := details.get("spread"):
        own, swaps = spread["wordings"], spread["synonyms"]
        say(
            f"spread: effective rank {own['effective_rank']:.1f}, mean distance "
            f"{own['mean_distance']:.2f}; {swaps['texts']} synonym swaps of one sentence: "
            f"{swaps['effective_rank']:.1f}, {swaps['mean_distance']:.2f}"
        )
