"""`delia pull`: exactly one version from the Hub, its hashes checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from delia_data.cli._console import console, step
from delia_data.cli._json import AsJson, plain, show_json
from delia_data.hub import pull
from delia_data.hub.client import parse_name


def command(
    version: Annotated[str, typer.Argument(help="Such as org/name@v1.2.0; the newest without @.")],
    out: Annotated[
        Path | None, typer.Argument(help="Folder; the repository's name if not given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Download a version as folders that `delia mix` and `delia train` take."""
    folder = out or Path(parse_name(version)[0].split("/")[1])
    with step("pulling") as update:
        found = pull(version, folder, on_file=update)
    if as_json:
        show_json({"out": folder, **plain(found)})
        return
    details = found.manifest.details
    parts = [name for name in ("task", "cache") if name in details]
    names = ", ".join(f"{folder / name}" for name in (*parts, *details["mixtures"]))
    console.print(
        f"{found.repo} v{found.manifest.settings['version']}, commit {found.commit[:8]}, every "
        f"hash checked: {names}",
        soft_wrap=True,
    )
