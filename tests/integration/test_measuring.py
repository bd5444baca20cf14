"""`delia measure`: measurements of a tiny adapter, resuming, and errors."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import Delia, refused
from word_inputs import Inputs, embed_letters, train_adapter

from delia_data.errors import FormatError, InputError, SettingsError, UnfinishedError
from delia_data.evaluation.measurements import (
    MEASURES,
    Measurements,
    MeasureSettings,
    measure,
    read_measurements,
)
from delia_data.evaluation.representation import measure_alignment, measure_state_space
from delia_data.models import load_model, load_tokenizer
from delia_data.outputs import is_finished, read_manifest
from delia_data.sampling import embeddings
from delia_data.tasks import read_task_rows
from delia_data.tokens import add_token
from delia_data.training import load_adapter
from delia_data.training.watching import read_watched

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

SETTINGS = MeasureSettings(words=16)
HERE = str(Path(__file__).parents[1])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return train_adapter(tmp_path_factory.mktemp("measured"))


@pytest.fixture(scope="module")
def measured(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all measurements."""
    out = tmp_path_factory.mktemp("out") / "measured"
    everything(inputs, out)
    return out


def everything(inputs: Inputs, out: Path, **given: Any) -> Measurements:
    options: dict[str, Any] = {"cache": inputs.cache, "what": MEASURES, "settings": SETTINGS}
    return measure(inputs.adapter, inputs.task, out, embed=embed_letters, **{**options, **given})


def test_all_measurements_are_written_and_read(inputs: Inputs, measured: Path) -> None:
    found = read_measurements(measured)
    assert found.measured == MEASURES
    assert found.token == "<sep>"
    assert found.steps == 2
    assert dict(found.trained_rows) == {"task": 5, "cache": 10}
    assert found.buffering is not None
    assert found.buffering.ratio == 2
    assert len(found.buffering.pairs) == 12
    assert {n: g.rows for n, g in found.buffering.cancelling["after"].items()} == {
        "pairs": 12,
        "task": 5,
        "common": 5,
        "held_out": 3,
    }
    assert found.state_space is not None
    assert {when: set(by) for when, by in found.state_space.items()} == {
        "before": {"with", "without"},
        "after": {"with", "without"},
    }
    manifest = read_manifest(measured, verify=True)
    assert manifest.kind == "evaluation"
    assert manifest.settings["measures"] == list(MEASURES)
    assert set(manifest.inputs) == {"adapter_sha256", "task_sha256", "cache_sha256"}
    figures = [path.name for path in (measured / "figures").iterdir()]
    assert len(figures) == 7
    assert all((measured / "figures" / name).read_bytes()[:4] == b"\x89PNG" for name in figures)


def test_before_equals_the_untrained_model_and_after_the_trained_one(
    inputs: Inputs, measured: Path
) -> None:
    found = read_measurements(measured)
    assert found.state_space is not None
    assert found.representation is not None
    torch = pytest.importorskip("torch")
    rows = [row.record for row in read_task_rows(inputs.task).test]
    untrained = load_model(inputs.adapter.parent / "model", dtype=torch.float32)
    tokenizer = load_tokenizer(inputs.adapter.parent / "model")
    add_token(untrained, tokenizer)
    models = {"before": untrained, "after": load_adapter(inputs.adapter)[0]}
    for when, model in models.items():
        space = measure_state_space(model.float(), tokenizer, rows)
        known = found.state_space[when]["with"]  # type: ignore[index]
        by_id = sorted(known.rows, key=lambda row: row.entropy)
        for one, other in zip(sorted(space.rows, key=lambda r: r.entropy), by_id, strict=True):
            # The command computes in bfloat16 on processors that have instructions for it.
            assert one.entropy == pytest.approx(other.entropy, rel=3e-2)
        alignment = measure_alignment(model, tokenizer, "<sep>", ["json"], words=16)
        [same] = alignment.keywords
        token = found.representation[when].keywords[0].token  # type: ignore[index]
        assert token.l2.mean == pytest.approx(same.token.l2.mean, rel=2e-2)
    moved = [found.representation[when].keywords[0].token.l2.mean for when in ("before", "after")]
    assert moved[0] != pytest.approx(moved[1], rel=0.05)


def test_watched_numbers_equal_measurements(inputs: Inputs, measured: Path) -> None:
    watched = read_watched(inputs.adapter)
    assert [line["step"] for line in watched] == [0, 1, 2]
    spaces = read_measurements(measured).state_space
    assert spaces is not None
    for line, when in ((watched[0], "before"), (watched[-1], "after")):
        space = spaces[when]["with"]  # type: ignore[index]
        assert line["state_space/entropy"] == pytest.approx(space.entropy, rel=0.02)
        assert line["state_space/size"] == pytest.approx(space.size, rel=0.1)


def test_a_finished_folder_is_not_measured_again(inputs: Inputs, measured: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in measured.rglob("*") if path.is_file()}
    steps: list[Any] = []
    again = everything(inputs, measured, on_progress=lambda *step: steps.append(step))
    assert again == read_measurements(measured)
    assert not steps
    lock = measured / ".lock"
    after = {path: path.stat().st_mtime_ns for path in measured.rglob("*") if path.is_file()}
    assert {p: t for p, t in before.items() if p != lock} == {
        p: t for p, t in after.items() if p != lock
    }


def test_measurements_are_added_to_a_finished_folder(
    inputs: Inputs, measured: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = measure(inputs.adapter, inputs.task, out, what=["state-space"], settings=SETTINGS)
    assert first.measured == ("state-space",)
    steps: list[str] = []
    whole = everything(inputs, out, on_progress=lambda what, done, total: steps.append(what))
    assert set(steps) == {"representation", "buffering"}
    assert (out / "measurements.json").read_bytes() == (measured / "measurements.json").read_bytes()
    assert whole.measured == MEASURES


WORK = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from word_inputs import embed_letters
from delia_data.evaluation import MEASURES, MeasureSettings, measure

measure(sys.argv[2], sys.argv[3], sys.argv[5], cache=sys.argv[4], what=MEASURES,
        settings=MeasureSettings(words=16), embed=embed_letters,
        on_progress=lambda *step: print(*step, flush=True))
"""


def test_a_killed_run_resumes_with_the_current_measurement(
    inputs: Inputs, measured: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-W", "ignore", "-c", WORK, HERE, *map(str, inputs[:3]), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert any(line.startswith("buffering 26 ") for line in process.stdout)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=300)
    assert not is_finished(out)
    with pytest.raises(UnfinishedError):
        read_measurements(out)
    steps: list[str] = []
    everything(inputs, out, on_progress=lambda what, done, total: steps.append(what))
    assert set(steps) == {"buffering"}
    assert (out / "measurements.json").read_bytes() == (measured / "measurements.json").read_bytes()


def test_other_settings_or_inputs(inputs: Inputs, measured: Path) -> None:
    with pytest.raises(SettingsError, match="words was 16 and is now 17"):
        everything(inputs, measured, settings=MeasureSettings(words=17))
    other = measured.parent / "other.jsonl"
    other.write_text(inputs.cache.read_text() + inputs.cache.read_text())
    with pytest.raises(SettingsError, match="cache_sha256"):
        everything(inputs, measured, cache=other)


def test_wrong_inputs_are_reported_before_work(inputs: Inputs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="no measurement is called loss"):
        everything(inputs, out, what=["loss"])
    with pytest.raises(InputError, match="called nothing"):
        everything(inputs, out, what=[])
    with pytest.raises(InputError, match=r"give a cache \(--cache\)"):
        everything(inputs, out, cache=None)
    with pytest.raises(InputError, match="is not a task folder"):
        measure(inputs.adapter, inputs.cache, out)
    with pytest.raises(InputError, match="holds a task, not an adapter"):
        measure(inputs.task, inputs.task, out)
    with pytest.raises(UnfinishedError):
        measure(inputs.adapter.parent / "model", inputs.task, out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rows": 1}, "rows 1 is wrong: .* equal to 2"),
        ({"pairs": 2, "words": 3}, "pairs 2 .*; words 3"),
        ({"ratio": -1.0}, "ratio -1.0"),
        ({"dtype": "int8"}, "'float32' or 'bfloat16'"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_settings_out_of_bounds(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MeasureSettings(**given)


def test_a_file_of_another_version(measured: Path) -> None:
    values = json.loads((measured / "measurements.json").read_text())
    del values["steps"]
    with pytest.raises(FormatError, match=r"another version.*steps"):
        Measurements.from_dict(values)


def test_the_command_prints_tables_or_json(
    inputs: Inputs, measured: Path, delia: Delia, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("delia_data.evaluation.measurements.Embedder", lambda: embed_letters)
    options = ["--cache", inputs.cache, "--words", 16]
    shown = delia("measure", inputs.adapter, inputs.task, measured, *options)
    assert shown.code == 0
    for part in (
        "L2 from <sep> to a keyword",
        "ordinary words",
        "First token of the answer",
        "after, without <sep>",
        "Canceling of gradients",
        "Rank correlation of the gradient norms of 12 pairs",
        "one wording and pairs",
    ):
        assert part in shown.out
    document = json.loads(
        delia("measure", inputs.adapter, inputs.task, measured, *options, "--json").out
    )
    assert document.pop("folder") == str(measured)
    assert Measurements.from_dict(document) == read_measurements(measured)


def test_the_command_measures_one_thing(inputs: Inputs, delia: Delia, tmp_path: Path) -> None:
    options = ("--what", "representation", "--keyword", "apple", "--words", 16)
    assert delia("measure", inputs.adapter, inputs.task, tmp_path / "out", *options).code == 0
    found = read_measurements(tmp_path / "out")
    assert found.measured == ("representation",)
    assert found.representation is not None
    assert [one.keyword for one in found.representation["after"].keywords] == ["apple"]


def test_errors_of_the_command(inputs: Inputs, delia: Delia, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = ("measure", inputs.adapter, inputs.task, out)
    refused(delia(*given, "--what", "buffering"), "give a cache (--cache)")
    refused(delia(*given, "--what", "loss,buffering"), "no measurement is called loss")
    refused(delia(*given, "--words", 2), "words 2 is wrong: it must be greater than")
    refused(delia("measure", tmp_path / "no", inputs.task, out), "no does not exist")
    refused(delia(*given, "--device", "abacus"), "abacus")
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("all of it")
    refused(delia(*given[:3], other), "holds something else")
    assert embeddings.weights_folder() is None or not (out / "measurements.json").exists()


def test_template_options_replace_those_of_the_training(tmp_path: Path, delia: Delia) -> None:
    inputs = train_adapter(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path / "model"))
    tokenizer.chat_template = "{%- if short %}so {% endif %}" + str(tokenizer.chat_template)
    tokenizer.save_pretrained(tmp_path / "model")
    where = [str(path) for path in (inputs.adapter, inputs.task)]
    how = ["--what", "state-space", "--words", "16"]
    for name, options in (("plain", []), ("short", ["--template-option", "short=true"])):
        result = delia("measure", *where, tmp_path / name, *how, *options)
        assert result.code == 0, result.err
    plain, short = (read_measurements(tmp_path / name).state_space for name in ("plain", "short"))
    assert plain is not None and short is not None and plain != short
    settings = read_manifest(tmp_path / "short").settings
    assert settings["template_options"] == {"short": True}
    assert "template_options" not in read_manifest(tmp_path / "plain").settings
    again = delia("measure", *where, tmp_path / "short", *how)
    refused(again, "template_options.short was True and is now None")
    unknown = delia("measure", *where, tmp_path / "x", *how, "--template-option", "shrt=true")
    refused(unknown, "short")
