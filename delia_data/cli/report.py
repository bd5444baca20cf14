"""`delia report`: write one page on any runs."""

from __future__ import annotations

from pathlib import Path

from delia_data.cli._flags import argument, option
from delia_data.cli._output import AsJson, messages, say, show_json, step


def command(
    runs: list[Path] = argument(
        "Output folders of other commands: a cache, task, mixture, adapter, evaluation, "
        "measurements, ratio series, reproduction or quickstart.",
        metavar="RUN...",
        show_default=False,
    ),
    out: Path = option(Path("report.html"), "Output file."),
    title: str | None = option(None, "Title of the page. Default: names of the runs."),
    as_json: AsJson = False,
) -> None:
    """Write one HTML page about runs: summary, tables, figures, answers, settings."""
    from delia_data.report import check_place, make_report

    check_place(out)
    with step("reading", to=messages) as update:
        report = make_report(
            runs, title=title, on_section=lambda name, done, of: update(done, of, name.lower())
        )
    report.write(out)
    if as_json:
        show_json({"out": out, **report.as_dict()})
        return
    for sentence in report.summary:
        say(sentence)
    say(f"\nReport: {out}")
