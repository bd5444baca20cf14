"""The whole chain with fewer rows, on the real weights: killed, gone on with, finished."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from delia_data.errors import ForeignFolderError, RatioError, SettingsError
from delia_data.models import embedded_gguf
from delia_data.outputs import is_finished, read_manifest

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(embedded_gguf() is None, reason="the embedded weights are not installed"),
]

RUN = """
import signal
import sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent may have it ignored
from pathlib import Path
from delia_data.quickstart import QuickstartSettings, run

run(Path(sys.argv[1]), QuickstartSettings(
    pairs=6, task_rows=6, held_out_rows=4, epochs=2, max_tokens=12, seed=int(sys.argv[2])))
"""
STEPS = ("cache", "task", "mixture", "untrained", "adapter", "trained", "measurements")


def start(out: Path, seed: int = 0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(out), str(seed)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def stop_when(process: subprocess.Popen[str], reached: Path, how: signal.Signals) -> None:
    """Wait until a path is there, then stop the process."""
    deadline = time.monotonic() + 900
    while not reached.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(how)
    process.communicate(timeout=600)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed while sampling and stopped while training, then finished."""
    out = tmp_path_factory.mktemp("quickstart") / "run"
    stop_when(start(out), out / "cache" / "plan.json", signal.SIGKILL)
    assert not is_finished(out / "cache")
    stop_when(start(out), out / "adapter", signal.SIGINT)
    assert is_finished(out / "untrained")
    assert not is_finished(out / "adapter")
    pairs = sorted((out / "cache").glob("pairs-*.parquet"))
    assert pairs
    sampled = [part.stat().st_mtime_ns for part in pairs]
    last = start(out)
    _, errors = last.communicate(timeout=1800)
    assert last.returncode == 0, errors
    assert [part.stat().st_mtime_ns for part in pairs] == sampled
    return out


def test_every_step_is_finished(finished: Path) -> None:
    out = finished
    for step in STEPS:
        read_manifest(out / step, verify=True)
    assert read_manifest(out / "mixture").rows == {"task": 6, "cache": 6, "test": 4}


def test_the_loss_falls_over_the_training(finished: Path) -> None:
    out = finished
    losses = [entry["loss"] for entry in json.loads((out / "adapter" / "losses.json").read_text())]
    assert len(losses) == 4
    first, second = losses[:2], losses[2:]
    assert sum(second) < sum(first)  # each epoch goes through the same rows


def test_only_the_tokens_row_of_the_embedding_is_trained(finished: Path) -> None:
    import torch

    from delia_data.models import load_model
    from delia_data.training import load_adapter

    out = finished
    base = load_model().get_input_embeddings().weight.detach()
    model, tokenizer = load_adapter(out / "adapter")
    trained = model.get_input_embeddings().weight.detach()
    token_id = tokenizer.convert_tokens_to_ids("<sep>")
    rows = len(base)
    assert torch.equal(trained[:rows], base)
    assert not torch.allclose(trained[token_id].float(), base.float().mean(0), atol=1e-3)


def test_the_evaluations_are_ordinary_ones(finished: Path) -> None:
    from delia_data.evaluation import read_evaluation, read_measurements

    for name in ("untrained", "trained"):
        scores, rows = read_evaluation(finished / name)
        assert [probe.probe for probe in scores.probes] == ["held-out"]
        assert len(rows) == 4
    assert read_measurements(finished / "measurements").measured == ("representation",)


def test_the_report_stands_alone(finished: Path) -> None:
    out = finished

    class Links(HTMLParser):
        seen: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.seen += [value or "" for name, value in attrs if name in ("src", "href")]

    parser = Links()
    text = (out / "report.html").read_text(encoding="utf-8")
    parser.feed(text)
    assert "DELIA report" in text
    assert text.count("<svg") >= 4
    assert all(link.startswith(("data:", "#")) for link in parser.seen)


def test_a_rerun_does_nothing_again(finished: Path) -> None:
    out = finished
    stamps = {step: (out / step / "FINISHED").stat().st_mtime_ns for step in STEPS}
    again = start(out)
    _, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    assert {step: (out / step / "FINISHED").stat().st_mtime_ns for step in STEPS} == stamps


def test_other_settings_are_refused(finished: Path) -> None:
    from delia_data.quickstart import QuickstartSettings, run

    settings = QuickstartSettings(
        pairs=6, task_rows=6, held_out_rows=4, epochs=2, max_tokens=12, seed=7
    )
    with pytest.raises(SettingsError, match="seed was 0 and is now 7"):
        run(finished, settings)


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    from delia_data.quickstart import run

    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(ForeignFolderError, match=r"thesis\.tex"):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("values", [{"ratio": -1.0}, {"ratio": 2.0, "pairs": 10}, {"pairs": 0}])
def test_a_ratio_that_cannot_be_is_refused_before_anything_runs(values: dict[str, float]) -> None:
    from delia_data.quickstart import QuickstartSettings

    with pytest.raises(RatioError):
        QuickstartSettings(**values)  # type: ignore[arg-type]
