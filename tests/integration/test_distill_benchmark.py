"""The benchmark of distilled prompts: files of runs, and its section of the results."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from micro_run import micro_model
from recording_engine import RecordingEngine
from trained import MARKS

from delia_data.distill import distill

distillation = pytest.importorskip("benchmarks.distillation")

pytestmark = MARKS


def test_a_part_of_the_ways_and_seeds_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, work = micro_model(tmp_path / "micro"), tmp_path / "work"
    asked = RecordingEngine(answer=lambda query: f"It is at door {len(query) % 7}.")
    monkeypatch.setattr(distillation, "distill", partial(distill, engine=lambda: asked.engine))
    monkeypatch.setattr(distillation, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(distillation, "RESULTS", tmp_path / "RESULTS.md")
    files = ("extract.txt", "reply.txt", "sort.txt")
    monkeypatch.setattr(distillation, "_TOKENS", {f"<{f[:-4]}>": f for f in files[1:2]})
    arguments = ["--rows", 4, "--epochs", 1, "--ways", "row", "--seeds", 1]
    distillation.main(["--model", str(model), "--work", str(work), *map(str, arguments)])
    folder = tmp_path / "runs" / "micro"
    [run] = distillation.read_runs(folder)
    assert (run.way, run.seed, run.settings["queries"]) == ("row", 1, "messages.jsonl")
    [(token, one)] = run.tokens.items()
    assert one.evaluation.number("agree") and one.full_tokens > one.prompt_tokens
    assert len(run.examples[token]) == 2 and token in run.examples[token][0]["request"]
    text = (folder / "row-1.json").read_text()
    assert str(tmp_path) not in text and len(text) < 50_000
    section = (tmp_path / "RESULTS.md").read_text()
    assert section.rstrip().endswith("| no |"), "a prompt that is not followed has no target"
    assert "## Distillation of prompts (micro)" in section
    assert "row 1. Not run: kl, ce." in section and "Queries for each prompt: 4" in section
    other = json.loads(text) | {"way": "kl", "seed": 0}
    (folder / "kl-0.json").write_text(json.dumps(other))
    runs = distillation.read_runs(folder)
    assert [(run.way, run.seed) for run in runs] == [("kl", 0), ("row", 1)]
    section = distillation._section(runs)
    assert "kl 0; row 1. Not run: ce." in section and section.count("`<reply>`") == 2
