"""`delia pull`: download exactly one version from the Hub, or compare two."""

from __future__ import annotations

from pathlib import Path

from delia_data.cli._flags import argument, option
from delia_data.cli._output import (
    AsJson,
    plain,
    say,
    show_json,
    step,
    warnings_in_one_line,
)
from delia_data.hub import Difference, pull
from delia_data.hub import diff as compare_versions
from delia_data.hub.client import RepoType, parse_name
from delia_data.hub.parts import MODEL, MODELS, NAMED
from delia_data.outputs import MANIFEST

_EXAMPLES = 5


def command(
    version: str = argument("Version, such as org/name@v1.2.0; the newest without @."),
    out: Path | None = argument(
        "Output folder. Default: the name of the repository.", default=None
    ),
    diff: str | None = option(
        None,
        "Download nothing: show how this version or folder differs from VERSION, which "
        "may be a folder too.",
        metavar="OTHER",
    ),
    repo_type: RepoType | None = option(
        None, "Type of the repository. Default: a dataset if there is one of this name."
    ),
    as_json: AsJson = False,
) -> None:
    """Download a version as folders for `delia mix`, `delia train`, and `delia evaluate`."""
    with warnings_in_one_line(UserWarning):
        if diff is not None:
            difference = compare_versions(version, diff)
            if as_json:
                show_json(difference)
            else:
                say("\n".join(_lines(difference)) or "no difference")
            return
        folder = out or Path(parse_name(version)[0].split("/")[1])
        with step("pulling") as update:
            pulled = pull(version, folder, repo_type=repo_type, on_file=update)
    if as_json:
        show_json({"out": folder, **plain(pulled)})
        return
    details = pulled.manifest.details
    names = [*(name for name in NAMED if name in details), *details["mixtures"]]
    in_root = {MODEL} if MANIFEST in pulled.manifest.files else set()
    folders = ", ".join(str(folder if name in in_root else folder / name) for name in names)
    say(
        f"{pulled.repo} v{pulled.manifest.settings['version']}, commit {pulled.commit[:8]}, "
        f"all hashes verified: {folders}"
    )


def _lines(difference: Difference) -> list[str]:
    lines = [
        f"{s.where}: {s.name} was {s.before!r} and is {s.after!r}" for s in difference.settings
    ]
    for change in difference.rows:
        order = ", in another order" if change.moved else ""
        unit = "files" if change.where in MODELS else "rows"
        lines.append(
            f"{change.where}: {change.added} {unit} added, {change.removed} removed, "
            f"{change.same} the same{order}"
        )
    new, gone = len(difference.wordings_added), len(difference.wordings_removed)
    if new or gone:
        lines.append(f"wordings: {new} added, {gone} removed")
    if difference.reworded:
        lines.append(f"task rows with another wording: {len(difference.reworded)}")
        for before, after in difference.reworded[:_EXAMPLES]:
            lines += [f"  - {_shortened(before)}", f"  + {_shortened(after)}"]
    return lines


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 100 else f"{line[:99]}…"
