"""The report on runs: accepted and refused inputs, texts of sections, output files."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import Delia, refused
from report_inputs import (
    EVIL,
    JSON,
    put_adapter,
    put_evaluation,
    put_measured,
    put_quickstart,
    put_ratio,
    put_reproduction,
    put_task,
)

from delia_data.errors import ForeignFolderError, InputError, UnfinishedError
from delia_data.outputs import FINISHED, Manifest, finish, read_manifest, write_json
from delia_data.report import check_place, make_report
from delia_data.report.page import GENERATOR, Figures
from delia_data.report.runs import read_runs
from delia_data.report.sections import (
    Example,
    ExampleRun,
    accounts,
    answers,
    examples,
    maps,
    measured,
    read_evaluated,
    settings,
    trained,
)
from delia_data.sampling.embeddings import place_by_words

pytest.importorskip("matplotlib")


def always(_: object) -> str:
    return JSON


def selective(request: Any) -> str:
    text = request.messages[-1].content
    return JSON if "<sep>" in text and "Question:" in text else "Fine."


# Recognizing


def test_every_kind_is_recognized(tmp_path: Path) -> None:
    put_task(tmp_path / "task", rows=2)
    put_adapter(tmp_path / "adapter", steps=2)
    put_evaluation(tmp_path / "scores", tmp_path / "task", always)
    put_measured(tmp_path / "measured")
    put_ratio(tmp_path / "ratio")
    put_reproduction(tmp_path / "grid")
    names = ("task", "adapter", "scores", "measured", "ratio", "grid")
    runs = read_runs([tmp_path / name for name in names])

    assert [(run.kind, run.label) for run in runs.every] == [
        ("task", "task"),
        ("adapter", "adapter"),
        ("evaluation", "scores"),
        ("measurements", "measured"),
        ("ratio", "ratio"),
        ("reproduction", "grid"),
    ]


def test_a_quickstart_stands_for_its_finished_parts(tmp_path: Path) -> None:
    put_quickstart(tmp_path / "qs")
    (tmp_path / "qs" / "adapter" / FINISHED).unlink()
    runs = read_runs([tmp_path / "qs"])

    assert [(run.kind, run.label) for run in runs.every] == [
        ("task", "qs/task"),
        ("evaluation", "qs/trained"),
    ]


def test_labels_tell_runs_apart(tmp_path: Path) -> None:
    for name in ("a/run", "b/run", "other"):
        put_adapter(tmp_path / name, steps=1)
    given = [tmp_path / "a/run", tmp_path / "b/run", tmp_path / "other", tmp_path / "a/run"]

    assert [run.label for run in read_runs(given).every] == ["a/run", "b/run", "other"]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "training.json").write_text("{}")
    (tmp_path / "model").mkdir()
    finish(tmp_path / "model", Manifest(kind="model"))
    (tmp_path / "stage").mkdir()
    finish(tmp_path / "stage", Manifest(kind="evaluation"))
    write_json(tmp_path / "qs" / "quickstart.json", {})
    (tmp_path / "grid").mkdir()
    (tmp_path / "grid" / "grid.yaml").write_text("name: x")

    for name, error, said in (
        ("none", InputError, "is not a folder: give what delia sample"),
        ("empty", UnfinishedError, "is not a finished output"),
        ("begun", UnfinishedError, "is not a finished output"),
        ("model", InputError, "holds model, which has no section"),
        ("stage", InputError, "holds part of a run"),
        ("qs", UnfinishedError, "no step of quickstart"),
        ("grid", UnfinishedError, "no cell of reproduction"),
    ):
        with pytest.raises(error, match=said):
            read_runs([tmp_path / name])
    with pytest.raises(InputError, match="no run was given"):
        read_runs([])


# Sections


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("evaluations")
    put_task(root / "task", rows=6)
    put_evaluation(root / "common", root / "task", always)
    put_evaluation(root / "delia", root / "task", selective)
    return root


def test_numbers_come_first_and_runs_are_compared(evaluations: Path) -> None:
    runs = read_runs([evaluations / "common", evaluations / "delia"])
    found = answers(runs, Figures())
    assert found is not None

    assert found.summary == [
        "On hallucination-check, delia follows the token in 100% [54, 100] of held-out answers, "
        "leaks the format in 0% [0, 9] of the answers of the worst probe, obeys in 0% [0, 46] when "
        "the format is forbidden, and gives the right answer to 50% [17, 83] of the held-out "
        "rows. Row by row, its selectivity differs from that of common by +100 points "
        "[−38, +146], which includes no difference."
    ]
    assert [metric.name for metric in found.metrics] == [
        "Follow, delia",
        "Leak, delia",
        "Obey, delia",
    ]
    assert found.metrics[1].value == "0%"
    (group,) = found.data
    assert [one["run"] for one in group["runs"]] == ["common", "delia"]
    assert group["minus_first"]["delia"]["numbers"]["leak"]["value"] == -1
    assert group["minus_first"]["delia"]["leaks"]["unrelated"]["value"] == -1
    for said in (
        "Difference from common: paired 95% intervals",
        "<em>untrained</em>",
        "<em>untrained, full instruction</em>",
        "Questions about the token",
        "keep: KL is unknown: the engine gives no distributions",
        "&lt;script&gt;",
    ):
        assert said in found.body
    assert found.body.count("<em>untrained</em>") == 1  # the bound of both runs
    assert "+100 [−38, +146]" not in found.body and "<b>+100</b>" in found.body
    assert "<script" not in found.body


def test_an_evaluation_of_other_weights_has_a_note(evaluations: Path, tmp_path: Path) -> None:
    for name in ("mine", "old"):
        shutil.copytree(evaluations / "delia", tmp_path / name)
        weights = b"mine" if name == "mine" else b"old"
        inputs = {"weights": hashlib.sha256(weights).hexdigest()}
        manifest = read_manifest(tmp_path / name)
        finish(tmp_path / name, manifest.model_copy(update={"inputs": inputs}))
    shutil.copytree(tmp_path / "mine", tmp_path / "adapter")
    finish(
        tmp_path / "adapter",
        Manifest(kind="adapter", inputs=read_manifest(tmp_path / "mine").inputs),
    )
    [group] = read_evaluated(read_runs([tmp_path / n for n in ("adapter", "mine", "old")]))
    noted = {one.label: any("evaluate it again" in n for n in one.scores.notes) for one in group}
    assert noted == {"mine": False, "old": True}


def test_the_first_on_which_runs_differ_are_shown_first(evaluations: Path) -> None:
    found = examples(read_runs([evaluations / "common", evaluations / "delia"]), Figures())
    assert found is not None

    (group,) = found.data
    assert group["rows"] == len(group["picked"]) == 6
    assert found.body.count("<article>") == 6
    assert found.body.index("<details><summary>3 more of 6 rows") > found.body.index("<article>")
    assert found.body.count(">in the format<") == 6 * 2
    assert found.body.count(">marks of the format<") == 6
    assert found.body.count(">no mark of the format<") == 6
    given = [ExampleRun("a", "x", "y", True, False), ExampleRun("b", "x", "y", True, True)]
    assert Example("1", "q", "e", "<sep>", tuple(given)).differs
    assert not Example("1", "q", "e", "<sep>", (given[0], given[0])).differs


def test_losses_and_what_was_watched(tmp_path: Path) -> None:
    put_adapter(tmp_path / "adapter")
    figures = Figures()
    found = trained(read_runs([tmp_path / "adapter"]), figures)
    assert found is not None

    assert [one["name"] for one in figures.drawn] == [
        "losses",
        "state-space-watched",
        "distance-watched",
    ]
    assert "too_long: 2" in found.body
    assert found.summary[0].startswith(
        "adapter was trained on 100 task rows and 50 pairs; the loss"
    )
    assert len(found.data[0]["losses"]) == 60


def make_mixture(folder: Path, **changes: Any) -> None:
    folder.mkdir(parents=True)
    given: dict[str, Any] = {
        "kind": "mixture",
        "settings": {"ratio": 0.5, "seed": 0, "token": "<sep>", "order": "shuffled"},
        "inputs": {"cache": "cd" * 32},
        "rows": {"task": 1000, "cache": 500},
        "dropped": {"too_long": 2, "empty": 0},
        "details": {"tokens": {"task": 12345}, "written_by": {"cache": {}}},
    }
    finish(folder, Manifest(**{**given, **changes}))


def test_every_row_is_accounted_for(tmp_path: Path) -> None:
    make_mixture(tmp_path / "one")
    make_mixture(
        tmp_path / "two", rows={"task": 7, "contrast": 3}, dropped={}, settings={"ratio": 0}
    )
    found = accounts(read_runs([tmp_path / "one", tmp_path / "two"]), Figures())
    assert found is not None

    for said in ("1,000", "too long", "one: tokens task 12345"):
        assert said in found.body
    assert "empty" not in found.body
    assert found.summary == [
        "one mixes 1,000 task rows and 500 pairs, a ratio of 0.5; 2 rows dropped.",
        "two mixes 7 task rows, 3 contrast rows, and 0 pairs, a ratio of 0; none dropped.",
    ]
    assert [metric.value for metric in found.metrics] == ["1,500", "10"]
    assert found.metrics[1].note == "7 task rows, 3 contrast rows, and 0 pairs"
    assert found.data[0]["dropped"] == {"too_long": 2, "empty": 0}


def test_every_setting_is_there_and_differences_stand_out(tmp_path: Path) -> None:
    make_mixture(tmp_path / "one")
    make_mixture(tmp_path / "two", settings={"ratio": 4, "seed": 0, EVIL: [{EVIL: ""}]})
    found = settings(read_runs([tmp_path / "one", tmp_path / "two"]), Figures())
    assert found is not None

    assert '<tr class="differs"><th scope="row">ratio</th><td>0.5</td><td>4</td></tr>' in found.body
    assert '<tr class="same"><th scope="row">seed</th><td>0</td><td>0</td></tr>' in found.body
    assert "input.<wbr>cache" in found.body
    assert f"<td>{'cd' * 8}…</td>" in found.body
    assert "Mixtures: 7 settings" in found.body
    assert "<script" not in found.body
    assert found.data["one"]["inputs"] == {"cache": "cd" * 32}
    alone = settings(read_runs([tmp_path / "one"]), Figures())
    assert alone is not None
    assert "differs" not in alone.body + alone.note


def test_a_map_says_what_its_axes_hold(tmp_path: Path, evaluations: Path) -> None:
    from delia_data.engines import MockEngine
    from delia_data.mixing import mix, read_task_rows, save_mixture
    from delia_data.sampling import BundledQueries, sample

    sample(MockEngine(), BundledQueries(), tmp_path / "cache", target=40, filters=())
    rows = read_task_rows(evaluations / "task")
    mixture = mix(rows.train, tmp_path / "cache", ratio=0.3, seed=0, token=rows.token)
    save_mixture(mixture, tmp_path / "mixture")
    of_mixture = maps(read_runs([tmp_path / "mixture"]), Figures(), embed=place_by_words)
    both = maps(
        read_runs([evaluations / "task", tmp_path / "cache"]), Figures(), embed=place_by_words
    )
    assert of_mixture is not None and both is not None

    assert of_mixture.data[0]["rows"] == {"cache": 30, "task": 100}
    assert both.data[0]["rows"] == {"cache": 40, "task": 100}
    one, other = of_mixture.data[0]["variance"]
    assert 0 < other <= one < 1
    assert f"which hold {one + other:.0%} of the variance" in of_mixture.body
    assert "placed by their words (TF-IDF)" in of_mixture.body
    assert maps(read_runs([evaluations / "task"]), Figures(), embed=place_by_words) is None


# The page


def test_what_is_absent_is_said_with_its_command(tmp_path: Path) -> None:
    make_mixture(tmp_path / "one", rows={})
    report = make_report([tmp_path / "one"], title="A <title>", embed=place_by_words)
    text = report.html()

    assert "Not on this page because no run has it: answers (delia evaluate);" in text
    assert "how much is enough (delia ratio)" in text
    assert report.absent["map of the queries"] == "delia mix"
    assert '<h1 dir="auto">A &lt;title&gt;</h1>' in text
    assert [list(report.as_dict()["chapters"]), report.as_dict()["runs"]] == [
        ["data", "settings"],
        [{"folder": str(tmp_path / "one"), "run": "one", "kind": "mixture"}],
    ]


def test_parts_of_measurements_can_be_absent(tmp_path: Path) -> None:
    put_measured(tmp_path / "measured")
    put_measured(tmp_path / "part", parts=("representation",))
    part = measured(read_runs([tmp_path / "part"]), Figures())
    both = measured(read_runs([tmp_path / "part", tmp_path / "measured"]), Figures())
    assert part is not None and both is not None

    assert part.absent == {
        "state space of the first token": "delia measure",
        "gradients": "delia measure --cache",
    }
    assert both.absent == {}


def test_the_place_is_looked_at_before_anything_is_read(tmp_path: Path) -> None:
    make_mixture(tmp_path / "run")
    (tmp_path / "report.html").write_text("<p>mine</p>")

    with pytest.raises(ForeignFolderError, match="not a report of this package"):
        check_place(tmp_path / "report.html")
    with pytest.raises(ForeignFolderError, match="is the folder of a run"):
        check_place(tmp_path / "run" / "report.html")
    with pytest.raises(ForeignFolderError, match="is a folder"):
        check_place(tmp_path)
    (tmp_path / "ours.html").write_text(f'<meta name="generator" content="{GENERATOR} 0.1">')
    check_place(tmp_path / "ours.html")
    check_place(tmp_path / "new" / "report.html")


# The command


def test_the_command(tmp_path: Path, delia: Delia, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_mixture(tmp_path / "one", rows={"task": 3})
    (tmp_path / "one" / "train.parquet").unlink(missing_ok=True)
    result = delia("report", "one")

    assert result.code == 0, result.err
    assert "one mixes 3 task rows and 0 pairs" in result.out
    assert result.out.rstrip().endswith("Report: report.html")
    page = (tmp_path / "report.html").read_bytes()
    shown = delia("report", "one", "--json", "--out", "other.html", "--title", "one")
    document = json.loads(shown.out)
    assert document["out"] == "other.html"
    assert document["chapters"]["data"][0]["rows"] == {"task": 3}
    assert (tmp_path / "other.html").read_bytes() == page


def test_the_command_refuses_in_one_line(
    tmp_path: Path, delia: Delia, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    refused(delia("report", "none"), "none is not a folder")
    refused(delia("report", "empty"), "empty is not a finished output")
    (tmp_path / "report.html").write_text("mine")
    refused(delia("report", "none"), "report.html exists")
    assert delia("report").code == 2
    assert (tmp_path / "report.html").read_text() == "mine"
