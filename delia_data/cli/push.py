"""`delia push`: publish a task, a cache, and mixtures, or a model, on the Hub as one version."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Annotated

import typer

from delia_data.cli._flags import option
from delia_data.cli._output import AsJson, plain, say, show_json
from delia_data.errors import InputError, SecretError
from delia_data.hub import Pushed, push
from delia_data.hub.card import size_text
from delia_data.hub.secrets import KINDS
from delia_data.mixing import parse_ratio


def command(
    repo: Annotated[str, typer.Argument(help="Repository, such as org/name; made if missing.")],
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of a task, a cache (or bundled), or mixtures; or of an adapter or an "
            "exported model, and of its evaluation; or one of delia pull."
        ),
    ],
    ratio: Annotated[
        list[str] | None, option("Ratio at which to mix the task with the cache; repeatable.")
    ] = None,
    license: Annotated[
        str | None, option("License, such as apache-2.0; needed for the first version only.")
    ] = None,
    licence: Annotated[str | None, option("Earlier name of --license.", hidden=True)] = None,
    base_model: Annotated[
        str | None,
        option("Base model's name on the Hub, for an adapter trained from a local folder."),
    ] = None,
    version: Annotated[
        str | None, option("Version, such as 1.2.0. Default: the next minor version.")
    ] = None,
    replace_all: Annotated[
        bool, option("Remove the parts that are not given.", names=["--replace-all"])
    ] = False,
    private: Annotated[bool, option("Make a new repository private.")] = False,
    dry_run: Annotated[bool, option("Show files, sizes, tag, and card; send nothing.")] = False,
    create_pr: Annotated[bool, option("Propose the version as a pull request.")] = False,
    allow: Annotated[
        list[str] | None,
        option(
            f"Kind of secret ({', '.join(KINDS)}, or the name that a finding shows) or pattern of "
            "values to allow; repeatable."
        ),
    ] = None,
    personal_data: Annotated[
        bool,
        option(
            "Also refuse phone numbers, IP addresses, and numbers of cards, accounts and persons; "
            "needs the extra personal-data."
        ),
    ] = False,
    citation: Annotated[
        Path | None, option("A .bib file to cite in addition to the paper.")
    ] = None,
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
            citation=None if citation is None else _read_text(citation),
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
        counts = ", ".join(f"{number} {kind}" for kind, number in sorted(pushed.allowed.items()))
        say(f"allowed by --allow: {counts}")
    tag = pushed.version.tag
    if dry_run:
        for file in pushed.files:
            size = "" if file.size is None else size_text(file.size)
            say(f"{file.state:8} {size:>9}  {file.path}")
        say(f"\n{pushed.card}")
        line = f"tag {tag} ({pushed.why}); nothing was sent"
    elif pushed.proposal:
        line = f"{tag} is proposed: {pushed.proposal}"
    elif pushed.changed:
        line = f"{pushed.repo}@{tag} is published ({pushed.why})"
    else:
        line = f"{pushed.repo}@{tag}: {pushed.why}"
    say(line)


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read ({error}): give a .bib file in UTF-8") from error
