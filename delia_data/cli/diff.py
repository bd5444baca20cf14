"""`delia diff`: the earlier name of `delia pull VERSION --diff OTHER`."""

from __future__ import annotations

from typing import Annotated

import typer

from delia_data.cli._json import AsJson
from delia_data.cli.pull import compare


def command(
    before: Annotated[str, typer.Argument(help="Version, such as org/name@v1.0.0, or a folder.")],
    after: Annotated[str, typer.Argument(help="The version or folder to compare with.")],
    as_json: AsJson = False,
) -> None:
    """Show which settings, rows, and wordings differ; use `delia pull --diff`."""
    compare(before, after, as_json)
