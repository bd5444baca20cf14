"""`delia push`: a task, a cache and mixtures onto the Hub, as one version."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from delia_data.cli._completion import among
from delia_data.cli._console import console
from delia_data.cli._json import AsJson, plain, show_json
from delia_data.errors import InputError, SecretError
from delia_data.hub import Options, Pushed, needs_licence, push
from delia_data.hub.card import size_of
from delia_data.hub.scanning import findings_of
from delia_data.hub.secrets import KINDS
from delia_data.hub.versions import BUMPS
from delia_data.mixing import ORDERS, parse_ratio
from delia_data.models import load_tokenizer
from delia_data.records import FORMATS


def command(
    repo: Annotated[str, typer.Argument(help="Repository, such as org/name; made if not there.")],
    folders: Annotated[
        list[Path],
        typer.Argument(help="Folders of a task, a cache (or bundled), mixtures, or of delia pull."),
    ],
    ratio: Annotated[
        list[str] | None, typer.Option(help="Mix the task with the cache at this ratio; repeat it.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Such as apache-2.0; asked for once, never guessed.")
    ] = None,
    version: Annotated[str | None, typer.Option(help="Such as 1.2.0; by --bump if not given.")] = (
        None
    ),
    bump: Annotated[
        str,
        typer.Option(
            help=f"auto: by what changed; or at least {', '.join(BUMPS)}.",
            autocompletion=among(["auto", *BUMPS]),
        ),
    ] = "auto",
    lean: Annotated[bool, typer.Option(help="Mixtures as an index over the cache.")] = False,
    private: Annotated[bool, typer.Option(help="Make a new repository private.")] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Show files, sizes, tag and card; send nothing.")
    ] = False,
    create_pr: Annotated[bool, typer.Option(help="Propose it as a pull request.")] = False,
    allow: Annotated[
        list[str] | None,
        typer.Option(help=f"Let a kind ({', '.join(KINDS)}) or a pattern of values through."),
    ] = None,
    citation: Annotated[
        Path | None, typer.Option(help="A .bib file to cite beside the paper.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the mixtures that are made.")] = 0,
    order: Annotated[
        str,
        typer.Option(help=f"Of these: one of {', '.join(ORDERS)}.", autocompletion=among(ORDERS)),
    ] = "shuffled",
    format: Annotated[
        str,
        typer.Option(help=f"Of these: one of {', '.join(FORMATS)}.", autocompletion=among(FORMATS)),
    ] = ("messages"),
    pictures: Annotated[bool, typer.Option(help="Draw pictures, if matplotlib is there.")] = True,
    tokenizer: Annotated[
        str | None, typer.Option(help="Model whose tokens are counted, for the card.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Publish folders as one version: one commit, one tag; the same again changes nothing."""
    if licence is None and sys.stdin.isatty() and needs_licence(repo):
        licence = typer.prompt("Licence of the rows, such as apache-2.0")
    options = Options(
        ratios=tuple(parse_ratio(each) for each in ratio or ()),
        licence=licence,
        version=version,
        bump=bump,
        lean=lean,
        private=private,
        create_pr=create_pr,
        allow=tuple(allow or ()),
        citation=None if citation is None else _text(citation),
        mixing={"seed": seed, "order": order, "format": format},
        pictures=pictures,
        tokenizer=None if tokenizer is None else load_tokenizer(tokenizer),
    )
    try:
        done = push(folders, repo, options, dry_run=dry_run)
    except SecretError as error:
        console.print(findings_of(error), soft_wrap=True, markup=False)
        raise
    if as_json:
        sent = done.changed and not dry_run
        show_json({**plain(done), "version": str(done.version), "sent": sent})
    else:
        _show(done, dry_run)


def _show(done: Pushed, dry_run: bool) -> None:
    if done.allowed:
        told = ", ".join(f"{number} {kind}" for kind, number in sorted(done.allowed.items()))
        console.print(f"let through, as --allow says: {told}", soft_wrap=True)
    if dry_run:
        for file in done.files:
            size = "" if file.size is None else size_of(file.size)
            console.print(f"{file.state:8} {size:>9}  {file.path}", soft_wrap=True, markup=False)
        console.print(f"\n{done.card}", soft_wrap=True, markup=False)
        console.print(f"tag {done.version.tag} ({done.why}); nothing was sent", soft_wrap=True)
    elif done.proposal:
        console.print(f"{done.version.tag} is proposed: {done.proposal}", soft_wrap=True)
    elif done.changed:
        console.print(f"{done.repo}@{done.version.tag} is published ({done.why})", soft_wrap=True)
    else:
        console.print(f"{done.repo}@{done.version.tag}: {done.why}", soft_wrap=True)


def _text(file: Path) -> Any:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read ({error}): give a .bib file in UTF-8") from error
