"""`delia reproduce`: a grid of methods, and the paper's tables and figures of the run."""

from __future__ import annotations

from pathlib import Path

from delia_data.bundled_cache import cache_path
from delia_data.cli._flags import argument, option
from delia_data.cli._options import KEEP_ADAPTERS_HELP, TEMPLATE_OPTION_HELP, WORKERS_HELP
from delia_data.cli._output import AsJson, messages, say, show_cells, show_json, step
from delia_data.errors import InputError
from delia_data.tokens import parse_assignments


def command(
    paths: list[Path] = argument(
        "A grid, unless --scale names one, and the folder of the run; a rerun resumes.",
        metavar="[GRID.yaml] OUT",
        show_default=False,
    ),
    scale: str | None = option(
        None,
        "Bundled grid: tiny, pairs, kinds (two cores), small, paper (GPU).",
        complete=["tiny", "pairs", "kinds", "small", "paper"],
    ),
    only: list[str] | None = option(None, "Method to run; can be given several times."),
    workers: int = option(1, WORKERS_HELP),
    cache: Path | None = option(
        None,
        "Cache to take the pairs from, bundled or a folder; by default each model samples its own.",
    ),
    data: Path | None = option(
        None, "Folder of parallel files ending in .en and .is, for translations."
    ),
    device: str = option("cpu", "cpu, cuda, cuda:1, ..."),
    template_option: list[str] | None = option(
        None, f"{TEMPLATE_OPTION_HELP} In a grid: template_options in training."
    ),
    keep_adapters: bool = option(False, KEEP_ADAPTERS_HELP, names=["--keep-adapters"]),
    show: bool = option(False, "Show the cells and their duration; run nothing.", names=["--list"]),
    as_json: AsJson = False,
) -> None:
    """Run a grid of methods, task rows, ratios and seeds; compare with the paper's numbers."""
    from delia_data.experiments import Reproduction, read_grid, reproduce

    path, out = _paths(paths, scale)
    grid = read_grid(path)
    if options := parse_assignments(template_option or (), "--template-option"):
        grid = grid.with_template_options(options)
    run = Reproduction(
        grid,
        out,
        cache=cache_path(cache),
        data=data,
        device=device,
        only=tuple(only or ()),
        keep_adapters=keep_adapters,
    )
    if show:
        cells, seconds = run.estimate(workers)
        show_cells(cells, seconds, workers, as_json, blocked=run.blocked())
        return
    with step("cells", to=messages) as cells_bar, step("sampling", to=messages) as sampling_bar:
        document = reproduce(run, workers=workers, on_progress=cells_bar, on_sampling=sampling_bar)
    if as_json:
        show_json(document)
        return
    for finding in document["findings"]:
        say(f"{finding['verdict']}: {finding['claim']} {finding['numbers']}")
    if blocked := run.blocked():
        say(f"{len(blocked)} cells of translations did not run: give --data")
    say(f"Report: {out / 'report.md'}")


def _paths(paths: list[Path], scale: str | None) -> tuple[str | Path, Path]:
    """Return the grid and the folder."""
    if scale is not None and len(paths) == 1:
        return scale, paths[0]
    if scale is None and len(paths) == 2:
        return paths[0], paths[1]
    if scale is None:
        raise InputError("give a grid and a folder (GRID.yaml OUT), or --scale tiny and a folder")
    raise InputError("--scale names the grid: give only a folder")
