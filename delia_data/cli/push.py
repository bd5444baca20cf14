"""`delia push`: publish a task, a cache, and mixtures, or a model, on the Hub as one version."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import typer
from rich.filesize import decimal

from delia_data.cli._flags import argument, option
from delia_data.cli._output import AsJson, in_words, plain, say, show_json
from delia_data.errors import SecretError
from delia_data.hub import Pushed, push
from delia_data.hub.secrets import KINDS
from delia_data.mixing import parse_ratio
from delia_data.outputs import read_text_file


def command(
    repo: str = argument("Repository, such as org/name; made if missing."),
    folders: list[Path] = argument(
        "Folders of a task, a cache (or bundled), or mixtures; or of an adapter or an "
        "exported model, and of its evaluation; or one of delia pull."
    ),
    ratio: list[str] | None = option(
        None, "Ratio at which to mix the task with the cache; repeatable."
    ),
    license: str | None = option(
        None, "License, such as apache-2.0; needed for the first version only."
    ),
    licence: str | None = option(None, "Earlier name of --license.", hidden=True),
    base_model: str | None = option(
        None, "Base model's name on the Hub, for an adapter trained from a local folder."
    ),
    version: str | None = option(None, "Version, such as 1.2.0. Default: the next minor version."),
    replace_all: bool = option(
        False, "Remove the parts that are not given.", names=["--replace-all"]
    ),
    private: bool = option(False, "Make a new repository private."),
    dry_run: bool = option(False, "Show files, sizes, tag, and card; send nothing."),
    create_pr: bool = option(False, "Propose the version as a pull request."),
    allow: list[str] | None = option(
        None,
        f"Kind of secret ({', '.join(KINDS)}, or the name that a finding shows) or pattern of "
        "values to allow; repeatable.",
    ),
    personal_data: bool = option(
        False,
        "Also refuse phone numbers, IP addresses, and numbers of cards, accounts and persons; "
        "needs the extra personal-data.",
    ),
    citation: Path | None = option(None, "A .bib file to cite in addition to the paper."),
    as_json: AsJson = False,
) -> None:
    """Publish folders as one version: one commit, one tag; repeating it changes nothing."""
    ask = functools.partial(typer.prompt, "License, such as apache-2.0")
    interactive = sys.stdin.isatty() and not as_json
    try:
        pushed = push(
            folders,
            repo,
            ratios=[parse_ratio(each) for each in ratio or ()],
            license=license or licence or (functools.cache(ask) if interactive else None),
            base_model=base_model,
            version=version,
            replace_all=replace_all,
            private=private,
            create_pr=create_pr,
            allow=allow or (),
            personal_data=personal_data,
            citation=None if citation is None else read_text_file(citation).strip(),
            dry_run=dry_run,
        )
    except SecretError as error:
        notes = "\n".join(getattr(error, "__notes__", []))
        say(notes)
        raise
    if as_json:
        sent = pushed.changed and not dry_run
        show_json({**plain(pushed), "version": str(pushed.version), "sent": sent})
    else:
        _show(pushed, dry_run)


def _show(pushed: Pushed, dry_run: bool) -> None:
    if pushed.allowed:
        say(f"allowed by --allow: {in_words(dict(sorted(pushed.allowed.items())))}")
    tag = pushed.version.tag
    if dry_run:
        for file in pushed.files:
            size = "" if file.size is None else decimal(file.size)
            say(f"{file.state:8} {size:>10}  {file.path}")
        say(f"\n{pushed.card}")
        line = f"tag {tag} ({pushed.why}); nothing was sent"
    elif pushed.proposal:
        line = f"{tag} is proposed: {pushed.proposal}"
    elif pushed.changed:
        line = f"{pushed.repo}@{tag} is published ({pushed.why})"
    else:
        line = f"{pushed.repo}@{tag}: {pushed.why}"
    say(line)
