"""The whole quickstart on a random tiny model: killed, resumed, finished.

`tests/slow/test_quickstart.py` runs it on the real weights.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from killing import stop_when
from micro_run import micro_model
from trained import MARKS

from delia_data.errors import ForeignFolderError, RatioError, SettingsError
from delia_data.evaluation import read_evaluation, read_measurements
from delia_data.outputs import is_finished, read_manifest
from delia_data.quickstart import QuickstartSettings, run

pytestmark = MARKS

SETTINGS = QuickstartSettings(
    pairs=48, task_rows=6, held_out_rows=4, epochs=2, max_tokens=48, keep_truncated=True, contrast=0
)
RUN = """
import sys

import delia_data.quickstart as quickstart

quickstart.DEFAULT_MODEL = sys.argv[2]
quickstart.run(sys.argv[1], quickstart.QuickstartSettings(
    pairs=48, task_rows=6, held_out_rows=4, epochs=2, max_tokens=48, keep_truncated=True,
    contrast=0))
"""
STEPS = ("cache", "task", "mixture", "adapter", "trained", "measurements")


@pytest.fixture(scope="module")
def tiny_default(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make a tiny model the default one."""
    model = micro_model(tmp_path_factory.mktemp("micro") / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("delia_data.quickstart.DEFAULT_MODEL", str(model))
        yield model


@pytest.fixture(scope="module")
def finished(tiny_default: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kill a run while it samples, interrupt it while it trains, then finish it."""
    out = tmp_path_factory.mktemp("quickstart") / "run"
    work = ("-c", RUN, out, tiny_default)
    stop_when((out / "cache" / "plan.json").exists, *work)
    assert not is_finished(out / "cache")
    stop_when((out / "adapter").exists, *work, how=signal.SIGINT)
    assert is_finished(out / "mixture")
    assert not is_finished(out / "adapter")
    pairs = sorted((out / "cache").glob("pairs-*.parquet"))
    assert pairs
    sampled = [part.stat().st_mtime_ns for part in pairs]
    run(out, SETTINGS)
    assert [part.stat().st_mtime_ns for part in pairs] == sampled
    return out


def test_every_step_is_finished_and_a_rerun_repeats_none(finished: Path) -> None:
    for step in STEPS:
        read_manifest(finished / step, verify=True)
    assert read_manifest(finished / "mixture").rows == {"task": 12, "cache": 48, "test": 4}
    losses = json.loads((finished / "adapter" / "losses.json").read_text())
    assert len(losses) == read_manifest(finished / "adapter").details["steps"]
    scores, rows = read_evaluation(finished / "trained")
    asked = {**dict.fromkeys(("held-out", "plain", "forbid"), 4), "unrelated": 40}
    assert scores.rows == {**asked, "other-json": 10, "token": 10}
    assert len(rows) == 72
    for system in ("model", "untrained", "instructed"):
        assert scores.number("follow", system) is not None
    assert {"leak", "selectivity", "obey", "kl", "right", "saved"} <= set(scores.numbers["model"])
    kl = scores.number("kl")
    assert kl is not None and kl.rows == 150 and kl.value > 0
    assert read_measurements(finished / "measurements").measured == ("representation",)
    stamps = {step: (finished / step / "FINISHED").stat().st_mtime_ns for step in STEPS}
    run(finished, SETTINGS)
    assert {step: (finished / step / "FINISHED").stat().st_mtime_ns for step in STEPS} == stamps


def test_the_report_has_no_outside_resources(finished: Path) -> None:
    class Links(HTMLParser):
        seen: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.seen += [value or "" for name, value in attrs if name in ("src", "href")]

    parser = Links()
    text = (finished / "report.html").read_text(encoding="utf-8")
    parser.feed(text)
    assert "DELIA report" in text
    assert text.count("<svg") >= 4
    assert all(link.startswith(("data:", "#")) for link in parser.seen)


def test_other_settings_and_foreign_folders_are_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="seed was 0 and is now 7"):
        run(finished, replace(SETTINGS, seed=7))
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(ForeignFolderError, match=r"thesis\.tex"):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("values", [{"ratio": -1.0}, {"ratio": 2.0, "pairs": 10}, {"pairs": 0}])
def test_an_impossible_ratio_is_refused_before_anything_runs(values: dict[str, float]) -> None:
    with pytest.raises(RatioError):
        QuickstartSettings(**values)  # type: ignore[arg-type]
