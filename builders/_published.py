"""A mixture that is published: which commit it is, and its rows, downloaded and checked.

The revision is resolved to a commit first, and the prepared dataset is filed under that commit:
where the Hub cannot be asked there is an error, never an older version.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from delia_data.builders._parts import TablePart
from delia_data.errors import InputError, SettingsError
from delia_data.mixing import schema
from delia_data.outputs import Manifest
from delia_data.records import Format

if TYPE_CHECKING:
    from delia_data.hub import Published

_OF_THE_MIXTURE: Final = frozenset({"ratio", "repo", "revision", "format"})


def check_alone(config: Any) -> None:
    """Refuse settings that a published mixture has of its own, and a revision of nothing.

    Raises:
        InputError: There is a revision and no repository.
        SettingsError: Another setting is given beside the repository.
    """
    if config.repo is None:
        if config.revision is not None:
            raise InputError(
                f"delia_mix has no revisions of its own ({config.revision!r} was given): "
                "leave revision= out, or name a published repository as repo="
            )
        return
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    given = [
        name
        for name, value in config.settings().items()
        if name not in _OF_THE_MIXTURE and value != defaults[name]
    ]
    if given:
        raise SettingsError(
            f"{config.repo} has its own {', '.join(given)}: leave {', '.join(given)} out, or "
            "delia pull it and mix its task and cache"
        )


def find_published(repo: str, revision: str | None) -> Published:
    """Ask the Hub which commit a revision is; see `delia_data.hub.find_version`."""
    from delia_data.hub import find_version  # not before, as it takes a while

    return find_version(repo if revision is None else f"{repo}@{revision}")


def published_format(found: Published, ratio: float) -> Format:
    """The row format of a published mixture.

    Raises:
        RatioError: There is no such mixture in that version.
    """
    from delia_data.hub import published_mixture

    row_format: Format = published_mixture(found, ratio).settings["format"]
    return row_format


def published_parts(found: Published, ratio: float) -> tuple[Manifest, dict[str, list[TablePart]]]:
    """The manifest of a published mixture, and its splits.

    Raises:
        RatioError: There is no such mixture in that version.
        HubError: The Hub refused, could not be reached, or gave other bytes.
    """
    from delia_data.hub import open_mixture

    mixture = open_mixture(found, ratio)
    columns = schema(mixture.manifest.settings["format"])
    return mixture.manifest, {
        split: TablePart.cut(pa.Table.from_batches(mixture.batches(split), columns))
        for split in mixture.splits
    }
