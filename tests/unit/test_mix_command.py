"""`delia mix` with a recipe: several tasks and caches, weights, several tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from command_line import Delia, names, refused

from delia_data.cli import mix as mix_command
from delia_data.mixing import mix
from delia_data.outputs import read_manifest
from delia_data.tasks import read_task_rows

RECIPE = """
tasks:
  halu: {path: halu.jsonl, weight: 1.0}
  translate: {path: translate.jsonl, weight: 2, token: <de>}
caches:
  own: {path: own.jsonl, weight: 3}
  other: other.jsonl
ratio: 2
seed: 5
order: interleaved
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)

    def write(name: str, count: int, query: str) -> None:
        row = '{"prompt": "%s %d", "completion": "answer"}\n'
        (tmp_path / name).write_text("".join(row % (query, i) for i in range(count)))

    write("halu.jsonl", 4, "as <sep>")
    write("translate.jsonl", 3, "as <de>")
    write("own.jsonl", 40, "query")
    write("other.jsonl", 30, "other")
    (tmp_path / "mix.yaml").write_text(RECIPE)
    return tmp_path


def test_a_recipe(delia: Delia, place: Path) -> None:
    result = delia("mix", "--recipe", "mix.yaml", "out")
    assert result.code == 0, result.err
    assert "ratio-2: 10 task rows and 20 pairs in out" in result.out
    expected = mix(
        {
            "halu": read_task_rows("halu.jsonl"),
            "translate": read_task_rows("translate.jsonl", token="<de>"),
        },
        {"own": "own.jsonl", "other": "other.jsonl"},
        ratio=2,
        seed=5,
        order="interleaved",
        task_weights={"halu": 1.0, "translate": 2.0},
        cache_weights={"own": 3, "other": 1.0},
    )
    assert pq.read_table("out/train.parquet").equals(expected.train)
    manifest = read_manifest("out")
    assert manifest.settings == expected.manifest.settings
    assert manifest.settings["token"] == ["<de>", "<sep>"]
    assert set(manifest.inputs) == {
        *("task:halu", "task:translate", "cache:own", "cache:other", "test")
    }


def test_options_come_before_the_recipe(delia: Delia, place: Path) -> None:
    assert delia("mix", "--recipe", "mix.yaml", "out", "--ratio", 1, "--seed", 0).code == 0
    settings = read_manifest("out").settings
    assert (settings["ratio"], settings["seed"], settings["order"]) == (1, 0, "interleaved")


def test_template_options_of_a_recipe_and_of_the_command_line(delia: Delia, place: Path) -> None:
    text = RECIPE + "template_options: {enable_thinking: false}\n"
    (place / "mix.yaml").write_text(text)
    for flags, value in (((), False), (("--template-option", "enable_thinking=true"), True)):
        assert delia("mix", "--recipe", "mix.yaml", "out", *flags).code == 0
        options = {"enable_thinking": value}
        assert read_manifest("out").settings["template_options"] == options
        rows = pq.read_table("out/train.parquet")["chat_template_kwargs"].to_pylist()
        assert rows == [options] * 30
    (place / "mix.yaml").write_text(RECIPE + "template_options: [enable_thinking]\n")
    refused(delia("mix", "--recipe", "mix.yaml", "out"), "mix.yaml: template_options")


def test_a_recipe_of_an_earlier_version_may_say_how_pairs_are_selected(
    delia: Delia, place: Path
) -> None:
    recipe = Path("mix.yaml").read_text("utf-8")
    Path("mix.yaml").write_text(f"{recipe}\nselect: uniform\n", "utf-8")
    assert delia("mix", "--recipe", "mix.yaml", "out", "--ratio", 1).code == 0
    assert read_manifest("out").settings["select"] == "uniform"


def test_tokens_are_counted(
    delia: Delia, place: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mix_command, "load_tokenizer", lambda *_: tiny_tokenizer)
    given = ["mix", "halu.jsonl", "own.jsonl", "out", "--ratio", 2, "--tokenizer", "tiny"]
    result = delia(*given)
    tokens = read_manifest("out").details["tokens"]
    assert set(tokens) == {"cache", "cache_answers", "task", "task_answers"}
    assert f"; {tokens['cache']} tokens of cache; " in result.out
    assert tokens["task_answers"] == 4 * (len("answer") + 1)
    tiny_tokenizer.chat_template = "{{ raise_exception('no such turns') }}"
    result = delia(*given[:3], "other", *given[4:])
    assert result.code == 0
    assert read_manifest("other").details["tokens"] == {"uncounted_rows": 12}
    assert "the tokens of 12 rows are not counted" in result.err


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("- 1", ["must hold a mapping of tasks, caches, ratio"]),
        ("tasks: [", ["is not YAML"]),
        ("ratio: 2", ["tasks must map at least one name to a path; caches must map"]),
        (RECIPE + "rato: 2", ["unknown key 'rato', did you mean 'ratio'?"]),
        (RECIPE.replace("weight: 3", "weigth: 3"), ["caches.own: unknown key 'weigth', did you"]),
        (RECIPE.replace("weight: 2", 'weight: "2"'), ["tasks.translate: weight '2' is no number"]),
        (RECIPE.replace("weight: 2", "weight: true"), ["weight True is no number of at least 0"]),
        (RECIPE.replace("weight: 3", "weight: -3"), ["caches.own: weight -3 is no number"]),
        (RECIPE.replace("<de>", "7"), ["tasks.translate: token 7 is no text"]),
        (RECIPE.replace("other.jsonl", "[1]"), ["caches.other must be a path, or a mapping"]),
        (
            RECIPE.replace("interleaved", "sorted").replace("weight: 3", "weight: no"),
            ["caches.own: weight False is no number", "order 'sorted' is unknown"],
        ),
        (RECIPE.replace("ratio: 2", "ratio: two"), ["ratio 'two' is not a number of at least 0"]),
    ],
)
def test_bad_recipes(delia: Delia, place: Path, text: str, faults: list[str]) -> None:
    (place / "mix.yaml").write_text(text)
    before = names(place)
    refused(delia("mix", "--recipe", "mix.yaml", "out"), "mix.yaml", *faults)
    assert names(place) == before


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["halu.jsonl", "own.jsonl", "out"], "no ratio was given: give one, such as --ratio 4"),
        (["halu.jsonl", "own.jsonl", "--ratio", 1], "2 places were given: give TASK CACHE OUT, or"),
        (["a", "b", "out", "--recipe", "mix.yaml"], "3 places were given"),
        (["out", "--recipe", "none.yaml"], "none.yaml cannot be read: No such file"),
        (["out", "--recipe", "mix.yaml", "--token", "<x>"], "write the tokens into the recipe"),
    ],
)
def test_bad_arguments(delia: Delia, place: Path, arguments: list[Any], fault: str) -> None:
    before = names(place)
    refused(delia("mix", *arguments), fault)
    assert names(place) == before


def test_every_task_must_name_its_own_token(delia: Delia, place: Path) -> None:
    (place / "mix.yaml").write_text(RECIPE.replace("token: <de>", "token: <fr>"))
    refused(delia("mix", "--recipe", "mix.yaml", "out"), "3 of 3 task rows do not name <fr>")
