"""Inputs of users: each is read as intended, or refused in one line."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import math
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import Delia, Result, check_line, refused
from datasets.features import Array2D, ClassLabel, Value
from row_files import encode
from row_files import write_jsonl as write

from delia_data.errors import DeliaError, FormatError, InputError
from delia_data.mixing import Mixture, mix
from delia_data.reading import KINDS, open_source, open_splits
from delia_data.records import FORMAT_COLUMNS, MEANINGFUL
from delia_data.records import UNSUPPORTED as UNSUPPORTED_COLUMNS
from delia_data.sampling import read_cache
from delia_data.sampling.queries import FileQueries
from delia_data.tasks import read_task
from delia_data.training.data import NO_ANSWER, count_rows, open_training_rows

TASK = [
    {
        "messages": [
            {"role": "user", "content": "Name it <sep>"},
            {"role": "assistant", "content": "x"},
        ]
    }
]
INSTRUCTION = ["--instruction", "Give the city's river.", "--stands-for", "one river"]


def row(question: Any, answer: Any = "It is.", **more: Any) -> dict[str, Any]:
    """Return a row of one question and one answer; `more` are other columns."""
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **more}


ROWS = [row(f"Is {n} odd?") for n in range(4)]


def parquet(path: Path, table: pa.Table) -> Path:
    pq.write_table(table, path)
    return path


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    """Return a table with the columns of all rows."""
    names = dict.fromkeys(name for each in rows for name in each)
    return pa.table({name: [each.get(name) for each in rows] for name in names})


def mixed(cache: Any) -> Mixture:
    return mix(TASK, cache, ratio=1000, on_short="all")


def questions(cache: Any) -> list[str]:
    """Return the questions of the pairs of a mixture, sorted."""
    rows = mixed(cache).train.to_pylist()
    return sorted(each["messages"][-2]["content"] for each in rows if each["source"] == "cache")


def shown(cache: Any) -> list[str]:
    """Return the pairs of a mixture, each as one text."""
    rows = mixed(cache).train.to_pylist()
    return sorted(
        " | ".join(f"{t['role'][0]}:{t['content']}" for t in each["messages"])
        for each in rows
        if each["source"] == "cache"
    )


class TestContents:
    """Contents that are no plain text."""

    @pytest.mark.parametrize("kind", ["jsonl", "parquet", "memory"])
    def test_text_parts_are_joined(self, kind: str, tmp_path: Path) -> None:
        parts = [{"type": "text", "text": "Which "}, {"type": "text", "text": "one?"}]
        rows = [row(parts, [{"type": "text", "text": "That."}])]
        given: Any = rows
        if kind == "jsonl":
            given = write(tmp_path / "a.jsonl", rows)
        elif kind == "parquet":
            given = parquet(tmp_path / "a.parquet", table_of(rows))
        assert shown(given) == ["u:Which one? | a:That."]

    @pytest.mark.parametrize(
        "content", [True, 7, {"text": "Yes."}, [1], ["a", "b"], [{"type": "chart"}]]
    )
    def test_any_other_content_is_refused(self, content: Any, delia: Delia, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", [ROWS[0], row("Which?", content)])
        refused(run_mix(delia, path), f"{path}:2: column 'messages'")
        path = parquet(tmp_path / "a.parquet", table_of([row(content, content)]))
        refused(run_mix(delia, path), f"{path}: row 0: column 'messages'")

    def test_bytes_are_utf8(self, tmp_path: Path) -> None:
        turn = pa.struct([("role", pa.binary()), ("content", pa.binary())])
        kind = pa.schema([("messages", pa.list_(turn))])
        rows = [
            {
                "messages": [
                    {k: v.encode() for k, v in t.items()} for t in row("Tür?", "Ø")["messages"]
                ]
            }
        ]
        path = parquet(tmp_path / "a.parquet", pa.Table.from_pylist(rows, kind))
        assert shown(path) == ["u:Tür? | a:Ø"]
        rows[0]["messages"][0]["content"] = b"\xff\xfe"
        with pytest.raises(FormatError, match=r"a\.parquet: row 0: .*UTF-8"):
            mixed(parquet(path, pa.Table.from_pylist(rows, kind)))

    @pytest.mark.parametrize("text", ["\ue012\uf8ff", "\U000f0000"])
    def test_private_use_characters_are_text(self, text: str) -> None:
        assert shown([row("Logo?", text)]) == [f"u:Logo? | a:{text}"]

    @pytest.mark.parametrize(
        "text", ["\u200b\u2060", "\ufe0f", "\u2800", "\U000e0020", "\u3164", ""]
    )
    def test_invisible_texts_are_refused(self, text: str, delia: Delia, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", [ROWS[0], row("Logo?", text)])
        refused(run_mix(delia, path), f"{path}:2: the row's assistant turn is empty")

    def test_both_spellings_of_turns_are_read_in_both_columns(self) -> None:
        spelled = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
        rows = [{"conversations": row("C", "A")["messages"]}, {"messages": spelled}]
        assert shown(rows) == ["u:C | a:A", "u:Q | a:A"]

    @pytest.mark.parametrize("word", ["<noinput>", "", "  ", None, "No input", "N/A <noinput>"])
    def test_no_input(self, word: str | None) -> None:
        found = shown([{"instruction": "Count.", "input": word, "output": "1 2"}])
        expected = (
            "u:Count.\n\nN/A <noinput> | a:1 2" if word == "N/A <noinput>" else "u:Count. | a:1 2"
        )
        assert found == [expected]


def run_mix(delia: Delia, cache: Any, *options: str) -> Result:
    """Run `delia mix` on a task of one row, next to a path."""
    folder = Path(str(cache)).parent
    task = write(folder / "of-task" / "task.jsonl", TASK)
    out = folder / "of-task" / "out"
    return delia("mix", task, cache, out, "--ratio", "1000", "--on-short", "all", *options)


UNSUPPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "tools": ({"tools": [{"name": "clock"}]}, "tools"),
    "tools as text": ({"tools": '[{"name": "clock"}]'}, "tools"),
    "images": ({"images": ["a.png"]}, "images"),
    "audio": ({"audio": {"path": "a.wav"}}, "audio"),
    "label": ({"label": False}, "label_false"),
    "label of KTO": ({"kto_tag": 0}, "label_false"),
    "weight": ({"weight": 0}, "weight_zero"),
    "train": ({"train": False}, "weight_zero"),
    "preference": ({"chosen": "a", "rejected": "b"}, "preference"),
}


class TestColumnsWithMeaning:
    """Columns and fields that change the meaning of a row."""

    @pytest.mark.parametrize("name", UNSUPPORTED)
    @pytest.mark.parametrize("kind", ["jsonl", "parquet"])
    def test_a_row_that_text_cannot_express(
        self, name: str, kind: str, delia: Delia, tmp_path: Path
    ) -> None:
        columns, reason = UNSUPPORTED[name]
        rows = [ROWS[0], row("Bad?", "Bad.", **columns)]
        path = write(tmp_path / "a.jsonl", rows)
        if kind == "parquet":
            path = parquet(tmp_path / "a.parquet", table_of(rows))
            rows = pq.read_table(path).to_pylist()
        where = f"{path}:2" if kind == "jsonl" else f"{path}: row 1"
        assert mixed(path).manifest.dropped == {reason: 1}
        result = run_mix(delia, path)
        assert result.code == 0
        assert f"dropped: 1 {reason}" in result.out
        refused(run_mix(delia, path, "--strict"), f"1 of 2 rows cannot be used: {where}: ")
        with pytest.raises(FormatError, match="1 of 2 rows"):
            mix(TASK, rows, ratio=1, strict=True)
        with pytest.raises(FormatError, match="1 of 2 rows"):
            mix(path, ROWS, ratio=1, token=None)
        if reason not in ("label_false", "weight_zero", "preference"):
            refused(delia("task", "inspect", path, *INSTRUCTION), where)

    def test_fields_of_turns(self) -> None:
        rows = [row(f"{n}?") for n in "abcd"]
        rows[0]["messages"][1]["tool_calls"] = [{"function": {"name": "clock"}}]
        rows[1]["messages"][1]["reasoning_content"] = "Let me think."
        rows[2]["messages"].insert(1, {"role": "tool", "content": "12:00"})
        mixture = mixed(rows)
        assert mixture.manifest.dropped == {"tools": 2}
        assert mixture.manifest.details["read"]["cache"]["changed"] == {"reasoning_removed": 1}
        assert "think" not in str(mixture.train.to_pylist())
        with pytest.raises(FormatError, match="3 of 4 rows"):
            mix(TASK, rows, ratio=1, strict=True)

    @pytest.mark.parametrize("field", [{"weight": 0.0}, {"train": False}, {"loss": "false"}])
    def test_answers_that_are_not_to_be_trained_on(self, field: dict[str, Any]) -> None:
        rows = [row(f"{n}?") for n in "ab"]
        rows[0]["messages"][0] |= field  # a question never is
        rows[1]["messages"][1] |= field
        assert questions(rows) == ["a?"]
        assert mixed(rows).manifest.dropped == {"weight_zero": 1}
        assert [query.reference for query in FileQueries(rows)] == ["It is.", None]

    def test_a_label_of_0_is_false_in_the_columns_of_kto_only(self) -> None:
        rows = [row("a?", label=0), {"prompt": "b?", "completion": "It is.", "label": 0.0}]
        mixture = mixed(rows)
        assert mixture.manifest.dropped == {"label_false": 1}
        assert mixture.manifest.details["read"]["cache"] == {"ignored": ["label"]}
        assert mixture.train.num_rows == 2

    def test_fields_of_turns_that_are_ignored_are_listed(self, tmp_path: Path) -> None:
        rows = [row("a?"), row("b?", n=None)]
        rows[0]["messages"][0] |= {"name": "Ann", "weight": 0.5, "id": None}
        listed = {"ignored": ["messages.name", "messages.weight"]}
        for given in (rows, write(tmp_path / "a.jsonl", rows)):
            assert mixed(given).manifest.details["read"]["cache"] == listed
        rows[0]["messages"][0].pop("weight")  # the fast path
        path = write(tmp_path / "a.jsonl", rows)
        listed = {"ignored": ["messages.name"]}
        assert mixed(path).manifest.details["read"]["cache"] == listed

    @pytest.mark.parametrize(
        "bad",
        [
            {"system": "Be short.", "system_prompt": "Be long."},
            {"messages": [{"role": "user", "content": "a", "value": "b"}, row("")["messages"][1]]},
        ],
    )
    def test_a_row_that_says_two_things_is_refused(self, bad: dict[str, Any]) -> None:
        with pytest.raises(FormatError, match=r"row 1: .* another .*keep one"):
            mixed([ROWS[0], {**row("b?"), **bad}])

    @pytest.mark.parametrize("name", ["label", "weight", "tools", "images", "rejected"])
    def test_columns_that_say_nothing_are_no_reason(self, name: str) -> None:
        empty = (None, True, 1) if name in ("label", "weight") else (None, [], "")
        rows = [row(f"{n}?", **{name: value}) for n, value in enumerate(empty)]
        assert len(questions(rows)) == 3

    def test_strict_after_the_rows_are_stored(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DELIA_CACHE", str(tmp_path / "home"))
        monkeypatch.setattr("delia_data.mixing.store._STORED_BYTES", 0)
        path = write(tmp_path / "a.jsonl", [*ROWS, row("Bad?", label=False)])
        assert mixed(path).manifest.dropped == {"label_false": 1}
        with pytest.raises(FormatError, match="labeled as a bad answer"):
            mix(TASK, path, ratio=1, strict=True)
        assert mixed(path).manifest.dropped == {"label_false": 1}
        manifest = mix(TASK, write(path, ROWS), ratio=1, strict=True).manifest
        assert manifest.settings["strict"] is True

    @pytest.mark.parametrize("name", ["system", "system_prompt", "system_message"])
    def test_a_system_column_is_a_system_turn(
        self, name: str, delia: Delia, tmp_path: Path
    ) -> None:
        turns = [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Me."}]
        rows = [{"conversations": turns, name: "Be short."}]
        assert shown(rows) == ["s:Be short. | u:Who? | a:Me."]
        path = write(tmp_path / "q.jsonl", rows)
        out = tmp_path / "out"
        result = delia("sample", out, "--queries", path, "--engine", "mock", "--target", "1")
        assert result.code == 0, result.err
        messages = read_cache(out)[0].messages
        assert [turn.content for turn in messages[:2]] == ["Be short.", "Who?"]

    def test_other_columns_are_listed_once(self, delia: Delia, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", [{**each, "n": 1, "url": "x"} for each in ROWS])
        assert mixed(path).manifest.details == {"read": {"cache": {"ignored": ["n", "url"]}}}
        result = run_mix(delia, path)
        assert result.err == "note: cache: 2 columns ignored (n, url)\n"


class TestJson:
    """Lines that are hard to parse."""

    def test_nesting_that_is_too_deep(self, delia: Delia, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", ROWS)
        with path.open("a") as lines:
            lines.write('{"n": ' + "[" * 30_000 + "]" * 30_000 + "}\n")
        refused(run_mix(delia, path), f"{path}:5: ", "nested deeper than")
        refused(delia("lint", path), f"{path}:5", "nested")

    def test_an_integer_of_many_digits(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", [])
        line = json.dumps(row("How many?"))[:-1]
        path.write_text(f'{line}, "n": {"7" * 6_000}}}\n')
        assert questions(path) == ["How many?"]

    @pytest.mark.parametrize("alone", [True, False])
    @pytest.mark.parametrize(
        "line",
        ['{"messages": [{"role": "user", "content": "a"},]}', '{"n": 1,}', "{'n': 1}", '{"n": 01}'],
    )
    def test_one_rule_whatever_else_is_in_the_file(
        self, line: str, alone: bool, delia: Delia, tmp_path: Path
    ) -> None:
        path = write(
            tmp_path / "a.jsonl", [] if alone else [*ROWS, row([{"type": "text", "text": "a"}])]
        )
        with path.open("a") as lines:
            lines.write(f"{line}\n")
        number = 1 if alone else 6
        refused(run_mix(delia, path), f"{path}:{number}: the line is not a JSON object")

    def test_three_problems_are_shown_and_all_counted(self, delia: Delia, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", [row(None) if n % 2 else ROWS[0] for n in range(20)])
        result = run_mix(delia, path)
        refused(result, "10 of 20 rows cannot be used", f"{path}:6: ", "; and 7 more")
        assert f"{path}:8: " not in result.err

    def test_a_list_of_answers_is_not_joined(self, delia: Delia, tmp_path: Path) -> None:
        path = tmp_path / "a.json"
        path.write_text(json.dumps({"instruction": ["a", "b"], "output": ["c", "d"]}))
        refused(run_mix(delia, path), f"{path}[0]: column 'instruction' holds a content part")
        path.write_text(json.dumps(ROWS[0], indent=2))
        assert questions(path) == ["Is 0 odd?"]
        path.write_text(json.dumps({"version": 1, "data": ROWS}))
        refused(run_mix(delia, path), "list of objects, such as the one under 'data'")
        path.write_text(json.dumps({"columns": ["prompt"], "data": [["q"]]}))
        assert "such as" not in run_mix(delia, path).err


class TestMemory:
    """Inputs that are no files."""

    @pytest.mark.parametrize("missing", [math.nan, pd.NA, pd.NaT, None])
    def test_missing_values_of_data_frames(self, missing: Any, tmp_path: Path) -> None:
        names = ("tools", "system", "weight", "label", "reasoning", "n")
        empty = dict.fromkeys(names, missing)
        rows = [row("a?", **empty), {**empty, "instruction": "b?", "input": missing, "output": "c"}]
        rows = [{"messages": missing, **each} for each in rows]
        frame = pd.DataFrame(rows)
        given = [rows, frame, frame.to_dict("records")]
        if missing is None or isinstance(missing, float):
            given.append(write(tmp_path / "a.jsonl", rows))
        for each in given:
            assert questions(each) == ["a?", "b?"]
            assert mixed(each).manifest.details == {}

    def test_an_arrow_stream_such_as_a_polars_frame(self) -> None:
        class Frame:
            def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
                return pa.Table.from_pylist(ROWS).__arrow_c_stream__(requested_schema)

        assert questions(Frame()) == questions(ROWS)

    @pytest.mark.parametrize(
        "given", [["a", "b"], [[{"role": "user", "content": "a"}]], [None], [3]]
    )
    def test_things_that_are_no_rows(self, given: list[Any]) -> None:
        for read in (mixed, lambda rows: mix(rows, ROWS, ratio=1), lambda rows: read_task(rows)):
            with pytest.raises(DeliaError) as refusal:
                read(given)
            assert "\n" not in str(refusal.value)
            assert "row 0" in str(refusal.value)

    @pytest.mark.parametrize(
        "given", [3, b"rows", None, {"messages": []}, object(), pd.Series(["a"])]
    )
    def test_things_that_are_no_inputs(self, given: Any) -> None:
        with pytest.raises(InputError) as refusal:
            open_source(given)
        assert "\n" not in str(refusal.value)

    def test_splits(self) -> None:
        parts = {name: datasets.Dataset.from_list([row(name)]) for name in ("train", "test")}
        lazy = {name: part.to_iterable_dataset() for name, part in parts.items()}
        for given in (datasets.DatasetDict(parts), datasets.IterableDatasetDict(lazy), parts):
            assert questions(given) == ["train"]
            mixture = mix(given, ROWS, ratio=1, token=None)
            assert mixture.manifest.rows == {"task": 1, "cache": 1, "test": 1}
            assert "'test'" not in str(mixture.train.to_pylist())
        with pytest.raises(InputError, match=r"no 'validation': .* such as rows\['train'\]"):
            open_source(parts, split="validation")
        with pytest.raises(
            InputError, match=r"the DatasetDict has the splits test, and no 'train'"
        ):
            mixed(datasets.DatasetDict({"test": parts["test"]}))

    @pytest.mark.parametrize(
        "error", [ValueError("own"), OSError(28, "own"), pa.ArrowInvalid("own"), KeyError("own")]
    )
    def test_an_error_of_the_users_code_stays_as_it_is(
        self, error: Exception, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def rows() -> Iterator[dict[str, Any]]:
            yield from [row(f"{n} <sep>") for n in range(10_000)]
            raise error

        class Rows:
            def __iter__(self) -> Iterator[dict[str, Any]]:
                return rows()

        monkeypatch.setattr("delia_data.mixing.store._IN_MEMORY_BYTES", 0)
        for read in (
            lambda: mixed(rows()),
            lambda: mix(rows(), ROWS, ratio=1),
            lambda: mixed(datasets.IterableDataset.from_generator(rows)),
            lambda: read_task(Rows(), instruction="Say.", stands_for="one word"),
            lambda: list(FileQueries(Rows())),
            lambda: count_rows(open_training_rows(rows()), "<sep>"),
        ):
            with pytest.raises(type(error)) as caught:
                read()
            assert caught.value is error
            assert "rows" in [frame.name for frame in caught.traceback]

    def test_a_transform_is_applied(self) -> None:
        dataset = datasets.Dataset.from_list(ROWS)
        dataset.set_transform(
            lambda batch: {"messages": [row("New?")["messages"]] * len(batch["messages"])}
        )
        assert questions(dataset) == ["New?"]

    def test_features_are_decoded(self, tmp_path: Path) -> None:
        turn = {"role": ClassLabel(names=["user", "assistant"]), "content": datasets.Json()}
        features = datasets.Features(
            {
                "messages": datasets.List(turn),
                "tools": datasets.Json(),
                "kind": ClassLabel(names=["tea", "rum"]),
            }
        )
        parts = [{"type": "text", "text": "B"}]
        rows = [
            {
                "messages": [{"role": 0, "content": "A"}, {"role": 1, "content": parts}],
                "tools": [],
                "kind": kind,
            }
            for kind in (1, 0, -1)
        ]
        dataset = datasets.Dataset.from_list(rows, features)
        dataset.to_parquet(tmp_path / "a.parquet")
        dataset.save_to_disk(tmp_path / "saved")
        turns = [{"role": "user", "content": "A"}, {"role": "assistant", "content": parts}]
        for given in (
            dataset,
            dataset.with_transform(lambda batch: batch),
            tmp_path / "a.parquet",
            tmp_path / "saved",
            dataset.to_iterable_dataset(),
        ):
            found = [row for _, row in open_source(given).rows()]
            assert found == [
                {"messages": turns, "tools": [], "kind": kind} for kind in ("rum", "tea", None)
            ]
            assert questions(given) == ["A"]
        numbers = dataset.remove_columns(["messages", "tools"]).to_iterable_dataset()
        kinds = [row["kind"] for _, row in open_source(numbers.with_format("numpy")).rows()]
        assert kinds == ["rum", "tea", None]


class TestNames:
    """Names of files and folders."""

    def test_a_name_that_exists_is_no_pattern(self, delia: Delia, tmp_path: Path) -> None:
        write(tmp_path / "a1.jsonl", [row("twin")])
        write(tmp_path / "run2" / "x.jsonl", [row("twin")])
        assert questions(write(tmp_path / "a[1].jsonl", [row("named")])) == ["named"]
        assert questions(write(tmp_path / "run[2]" / "x.jsonl", [row("named")]).parent) == ["named"]
        assert questions(str(tmp_path / "a[1].jsonl")) == ["named"]
        assert questions(tmp_path / "a[0-9].jsonl") == ["twin"]
        assert questions(write(tmp_path / "what?*.jsonl", [row("named")])) == ["named"]
        task = write(tmp_path / "t[1].jsonl", [row("named")])
        assert mix(task, ROWS, ratio=1, token=None).manifest.rows["task"] == 1
        write(tmp_path / "t1.jsonl", [row("twin")])
        assert "named" in delia("task", "inspect", task, *INSTRUCTION).out

    @pytest.mark.parametrize(
        ("name", "split"),
        [
            ("test.jsonl", "test"),
            ("data/test-00000-of-00001.jsonl", "test"),
            ("Testing/0.jsonl", "test"),
            ("my_eval.jsonl", "test"),
            ("evaluation.2.jsonl.gz", "test"),
            ("dev1.jsonl", "validation"),
            ("validation/a.jsonl", "validation"),
            ("contest.jsonl", "train"),
            ("latest/devices.jsonl", "train"),
        ],
    )
    def test_names_of_splits(self, name: str, split: str, tmp_path: Path) -> None:
        write(tmp_path / "a.jsonl", ROWS)
        write(tmp_path / name, ROWS)
        found = {n: [f.name for f in s.files] for n, s in open_splits(tmp_path).items()}
        assert Path(name).name in found[split]

    def test_a_pattern_is_split_like_a_folder(self, delia: Delia, tmp_path: Path) -> None:
        folder = tmp_path / "test"  # the name of the folder itself does not matter
        for name in ("train", "test", "dev"):
            write(folder / f"{name}.jsonl", [row(name)])
        (folder / "notes.md").write_text("rows")
        system = fsspec.filesystem("memory")
        system.put(str(folder), "/test-of-patterns/f", recursive=True)
        for given in (
            folder,
            folder / "*",
            f"{folder}/*.jsonl",
            "memory://test-of-patterns/f/*.jsonl",
        ):
            assert questions(given) == ["train"]
            mixture = mix(given, ROWS, ratio=1, token=None)
            assert mixture.manifest.rows == {"task": 1, "cache": 1, "test": 1}
        result = run_mix(delia, folder / "*")
        skipped = "notes.md (unknown kind), test.jsonl (split test), dev.jsonl (split validation)"
        assert result.err == f"note: cache: not read: {skipped}\n"

    def test_links_and_pipes_that_cannot_be_read(self, delia: Delia, tmp_path: Path) -> None:
        (tmp_path / "ring.jsonl").symlink_to("ring.jsonl")
        (tmp_path / "gone.jsonl").symlink_to("nothing.jsonl")
        os.mkfifo(tmp_path / "pipe.jsonl")
        for name, reason in (("ring", "symbolic links"), ("gone", "No such"), ("pipe", "a pipe")):
            refused(run_mix(delia, tmp_path / f"{name}.jsonl"), f"{name}.jsonl", reason)
        write(tmp_path / "rows.jsonl", ROWS)
        source = open_source(tmp_path)
        assert "pipe.jsonl (not a file)" in source.report.skipped

    def test_a_folder_that_cannot_be_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(tmp_path / "f" / "inner" / "a.jsonl", ROWS)
        write(tmp_path / "f" / "b.jsonl", ROWS)
        scan = os.scandir

        def scandir(path: Any) -> Any:
            if str(path).endswith("inner"):
                raise PermissionError(13, "Permission denied", str(path))
            return scan(path)

        monkeypatch.setattr(os, "scandir", scandir)
        with pytest.raises(InputError, match="inner cannot be read: Permission denied"):
            open_source(tmp_path / "f")

    def test_what_a_folder_holds_besides_rows(self, delia: Delia, tmp_path: Path) -> None:
        folder = tmp_path / "f"
        write(folder / "a.jsonl", [row("a")])
        write(folder / ".ipynb_checkpoints" / "a-checkpoint.jsonl", [row("stale")])
        write(folder / "_temporary" / "b.jsonl", [row("stale")])
        write(folder / ".hidden.jsonl", [row("stale")])
        (folder / "b.jsonl.gz").write_bytes(gzip.compress(json.dumps(row("b")).encode()))
        (folder / "c.jsonl.bz2").write_bytes(bz2.compress(b"{}"))
        (folder / "notes.md").write_text("rows")
        assert questions(folder) == ["a", "b"]
        skipped = ["c.jsonl.bz2 (unknown kind)", "notes.md (unknown kind)"]
        assert mixed(folder).manifest.details["read"]["cache"]["skipped"] == skipped
        result = run_mix(delia, folder)
        assert result.err == f"note: cache: not read: {', '.join(skipped)}\n"

    def test_folders_with_the_names_of_files(self, tmp_path: Path) -> None:
        write(tmp_path / "f" / "x.jsonl" / "part-0.json", [row("a")])
        write(tmp_path / "f" / "x.jsonl" / "part-1.json", [row("b")])
        (tmp_path / "f" / "x.jsonl" / "_SUCCESS").write_text("")
        assert questions(tmp_path / "f") == questions(tmp_path / "f" / "x.jsonl") == ["a", "b"]
        assert questions(tmp_path / "f" / "*.jsonl") == ["a", "b"]

    def test_links_are_followed_once(self, tmp_path: Path) -> None:
        write(tmp_path / "real" / "a.jsonl", [row("a")])
        folder = tmp_path / "f"
        folder.mkdir()
        (folder / "linked").symlink_to(tmp_path / "real")
        (folder / "again").symlink_to(tmp_path / "real")
        (folder / "linked.jsonl").symlink_to(tmp_path / "real" / "a.jsonl")
        (folder / "up").symlink_to(folder)
        (folder / "gone.jsonl").symlink_to(tmp_path / "nothing")
        source = open_source(folder)
        assert [where for where, _ in source.rows()] == [f"{folder}/linked.jsonl:1"]
        assert any("gone.jsonl (broken link)" in name for name in source.report.skipped)

    def test_a_folder_of_datasets(self, tmp_path: Path) -> None:
        datasets.Dataset.from_list([row("a"), row("b", "")]).save_to_disk(tmp_path / "one")
        datasets.DatasetDict(
            {name: datasets.Dataset.from_list([row(name)]) for name in ("train", "test", "extra")}
        ).save_to_disk(tmp_path / "two")
        with pytest.raises(FormatError, match=f"{tmp_path / 'one'}: row 1: .*turn is empty"):
            mixed(tmp_path / "one")
        assert questions(tmp_path / "two") == ["train"]
        skipped = {"skipped": ["split test", "split extra"]}
        assert mixed(tmp_path / "two").manifest.details["read"] == {"cache": skipped}
        task = read_task(tmp_path / "two", instruction="Say.", stands_for="one word")
        assert (len(task.train), len(task.test)) == (1, 1)
        assert task.read == {"skipped": ["split extra"]}

    @pytest.mark.parametrize("kind", ["Hub id", "saved", "shards", "URL"])
    def test_splits_with_other_names(
        self,
        kind: str,
        delia: Delia,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        names = ("test_sft", "train_gen", "train_sft")
        parts = {name: datasets.Dataset.from_list([row(name)]) for name in names}
        given = str(tmp_path / "rows")
        if kind == "Hub id":
            given = "org/rows:small"
            monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict(parts))
        elif kind == "saved":
            datasets.DatasetDict(parts).save_to_disk(given)
        else:
            for name in names:
                write(Path(given, "data", f"{name}-00000-of-00001.jsonl"), [row(name)])
        if kind == "URL":
            fsspec.filesystem("memory").put(given, "/other-splits", recursive=True)
            given = "memory://other-splits"
        assert questions(f"{given}#train_gen") == ["train_gen"]
        assert mix(f"{given}#test_sft", ROWS, ratio=1, token=None).manifest.rows["test"] == 0
        assert [query.text for query in FileQueries(f"{given}#test_sft")] == ["test_sft"]
        (skipped,) = mixed(f"{given}#train_gen").manifest.details["read"].values()
        assert [any(name in each for each in skipped["skipped"]) for name in names] == [1, 0, 1]
        task = write(tmp_path / "task.jsonl", TASK)
        refusal = f"{given} has the splits {', '.join(names)}, and no 'train': "
        advice = f"give one of them, such as {given}#train_gen"
        capsys.readouterr()  # progress of `save_to_disk`
        for command in (
            ("mix", task, given, tmp_path / "out", "--ratio", "1"),
            ("task", "inspect", given, *INSTRUCTION),
            ("train", given, tmp_path / "out"),
        ):
            refused(delia(*command), refusal, advice)
        refused(run_mix(delia, f"{tmp_path}/:cat:#train"), "/:cat: does not exist")  # no emoji

    def test_a_name_that_exists_is_no_split(self, tmp_path: Path) -> None:
        write(tmp_path / "f" / "a.jsonl", [row("twin")])
        write(tmp_path / "f#train" / "a.jsonl", [row("named")])
        assert questions(tmp_path / "f#train") == ["named"]
        fsspec.filesystem("memory").put(str(tmp_path), "/with-signs", recursive=True)
        assert questions("memory://with-signs/f#train") == ["named"]

    @pytest.mark.parametrize("content", ['{"name": "app", "icons": []}', "[]", "not JSON"])
    def test_a_manifest_of_others(self, content: str, delia: Delia, tmp_path: Path) -> None:
        write(tmp_path / "f" / "a.jsonl", [row("a")])
        (tmp_path / "f" / "manifest.json").write_text(content)
        assert questions(tmp_path / "f") == ["a"]

    @pytest.mark.parametrize("ending", ["txt", "xlsx", "jsonl.zip", "jsonl.bz2", ""])
    def test_an_unknown_ending_is_named(self, ending: str, delia: Delia, tmp_path: Path) -> None:
        path = tmp_path / f"a.{ending}"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.jsonl", "{}")
        refused(run_mix(delia, path), "has an unknown ending", ".jsonl")


def spelled(kind: str, rows: list[dict[str, Any]]) -> bytes:
    """Return the bytes of a file of some kind."""
    if kind == "csv":
        pairs = [[turn["content"] for turn in each["messages"]] for each in rows]
        rows = [{"instruction": question, "output": answer} for question, answer in pairs]
    return encode(rows, kind)


PACK: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".GZ": lambda data: gzip.compress(data[:20]) + gzip.compress(data[20:]),
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
    ".ZST": lambda data: pa.compress(data, "zstd", asbytes=True),
}


class TestKinds:
    """Kinds of files, compressed or behind a URL."""

    @pytest.mark.parametrize("pack", PACK)
    @pytest.mark.parametrize("kind", ["jsonl", "ndjson", "json", "parquet", "arrow", "csv"])
    def test_every_kind_in_every_compression(self, kind: str, pack: str, tmp_path: Path) -> None:
        path = tmp_path / f"a.{kind.upper() if pack.isupper() else kind}{pack}"
        path.write_bytes(PACK[pack](spelled(kind, ROWS)))
        assert questions(path) == questions(ROWS)
        assert questions(tmp_path) == questions(ROWS)
        if kind != "csv":
            assert mix(path, [row("Other?")], ratio=0.25, token=None).manifest.rows["task"] == 4
            task = read_task(path, instruction="Say.", stands_for="one word")
            assert len(task.train) + len(task.test) == 4

    @pytest.mark.parametrize("pack", [".gz", ".zst"])
    @pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "arrow", "csv"])
    def test_a_damaged_file(self, kind: str, pack: str, delia: Delia, tmp_path: Path) -> None:
        path = tmp_path / f"a.{kind}{pack}"
        rows = [row(f"{n} {os.urandom(20).hex()}") for n in range(200)]
        path.write_bytes(PACK[pack](spelled(kind, rows))[:-400])
        refused(run_mix(delia, path), f"{path}")
        path.write_bytes(spelled(kind, ROWS))
        refused(run_mix(delia, path), f"{path}")
        path.write_bytes(b"")
        assert run_mix(delia, path).code == 2

    @pytest.mark.parametrize(
        ("kind", "pack"),
        [(kind, "") for kind in ("jsonl", "json", "parquet", "arrow", "csv")]
        + [("jsonl", ".gz"), ("jsonl", ".ZST"), ("parquet", ".gz"), ("csv", ".zst")],
    )
    def test_urls(self, kind: str, pack: str, delia: Delia, tmp_path: Path) -> None:
        system = fsspec.filesystem("memory")
        url = f"memory://{kind}{pack.strip('.')}"
        for name in ("train", "test"):
            system.pipe(f"{url}/{name}.{kind}{pack}", PACK[pack](spelled(kind, [row(name)])))
        system.pipe(f"{url}/.old/train.{kind}", spelled(kind, [row("stale")]))
        system.pipe(f"{url}/README.md", b"rows")
        for given in (url, f"{url}/train.{kind}{pack}", f"{url}/tr*.{kind}{pack}"):
            assert questions(given) == ["train"]
        assert list(open_splits(url)) == ["train", "test"]
        out = tmp_path / "out"
        task = write(tmp_path / "task.jsonl", TASK)
        assert delia("mix", task, url, out, "--ratio", "1").code == 0
        with pytest.raises(InputError, match="does not exist"):
            mixed(f"{url}/nothing.{kind}")

    @pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
    def test_chained_urls(self, kind: str, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for name in ("train", "test"):
                archive.writestr(f"rows/{name}.{kind}", spelled(kind, [row(name)]))
        chain = f"::{tmp_path / 'a.zip'}"
        for name in ("rows", f"rows/train.{kind}", f"rows/tr*.{kind}"):
            assert questions(f"zip://{name}{chain}") == ["train"]
        fsspec.filesystem("memory").pipe(f"/chained/a.{kind}", spelled(kind, ROWS))
        assert questions(f"simplecache::memory://chained/a.{kind}") == questions(ROWS)

    @pytest.mark.parametrize(
        ("name", "data", "reason"),
        [
            ("a.jsonl", gzip.compress(b"{}", mtime=0), "holds gzip data: add the ending .gz"),
            ("a.csv", spelled("parquet", ROWS), "Parquet data"),
            ("a.jsonl.gz", b"PK\x03\x04", "a ZIP archive: unpack it"),
            ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
            ("a.jsonl", b"<!DOCTYPE html>", "an HTML page"),
            ("a.jsonl", bz2.compress(b"{}"), "bzip2 data: unpack it"),
            ("a.csv", lzma.compress(b"a,b"), "xz data: unpack it"),
            ("a.json", "[{}]".encode("utf-16"), "UTF-16"),
            ("a.json", "[{}]".encode("utf-16-le"), "UTF-16"),
            ("a.csv", "instruction,output\na,b\n".encode("utf-16"), "UTF-16"),
        ],
    )
    def test_contents_of_another_kind(
        self, name: str, data: bytes, reason: str, delia: Delia, tmp_path: Path
    ) -> None:
        path = tmp_path / name
        path.write_bytes(data)
        refused(run_mix(delia, path), f"{path} holds ", reason)

    def test_features_of_other_columns(self, tmp_path: Path) -> None:
        features = datasets.Features(
            {"prompt": Value("string"), "completion": Value("string"), "e": Array2D((1, 2), "int8")}
        )
        columns = {"prompt": ["a"], "completion": ["b"], "e": [[[1, 2]]]}
        dataset = datasets.Dataset.from_dict(columns, features)
        dataset.to_parquet(tmp_path / "a.parquet")
        for given in (dataset, tmp_path / "a.parquet", dataset.to_iterable_dataset()):
            assert questions(given) == ["a"]

    def test_a_date_out_of_range(self, tmp_path: Path) -> None:
        column = pa.array([2**40], pa.timestamp("s"))
        table = pa.table({"instruction": ["a"], "output": ["b"], "t": column})
        assert questions(parquet(tmp_path / "a.parquet", table)) == ["a"]

    def test_two_columns_of_one_name(self, delia: Delia, tmp_path: Path) -> None:
        one = pa.Table.from_pylist(ROWS)["messages"]
        table = pa.Table.from_arrays([one, one], names=["messages", "messages"])
        path = parquet(tmp_path / "a.parquet", table)
        refused(run_mix(delia, path), f"{path}: ", "two columns of one name ('messages')")


class TestCsv:
    """CSV files, as tasks and as caches."""

    def inspect(self, delia: Delia, path: Path) -> Result:
        columns = ["--query", "{text}", "--answer", "{team}"]
        return delia("task", "inspect", path, *columns, "--instruction", "Which team?")

    def test_quotes_that_do_not_match(self, delia: Delia, tmp_path: Path) -> None:
        path = tmp_path / "t.csv"
        lines = ["text,team", *(f"note {n},blue" for n in range(9))]
        lines[3], lines[7] = '"note 2,blue', '"note 6,red'
        path.write_text("\n".join(lines) + "\n")
        result = self.inspect(delia, path)
        refused(result, f"{path}:4", "quote")

    @pytest.mark.parametrize(
        ("text", "parts"),
        [
            ("text,team,text\na,b,c\n", [":1: ", "'text'"]),
            ("text, team\na,b\n", [":1: ", "' team'"]),
            ("text;team\na;b\n", [":1: ", "';'"]),
            ("text\tteam\na\tb\n", [":1: ", "'\\t'"]),
            ("text,team\na,b\nc\n", [":3: ", "1 cells"]),
            ("text,team\na,b\nc,d,e\n", [":3: ", "3 cells"]),
            ('text,team\na,b\n"c", "d"\n', [":3: ", "spaces before its quotes"]),
        ],
    )
    def test_tables_that_are_refused(
        self, text: str, parts: list[str], delia: Delia, tmp_path: Path
    ) -> None:
        path = tmp_path / "t.csv"
        path.write_text(text)
        refused(self.inspect(delia, path), f"{path}{parts[0]}", *parts[1:])
        refused(run_mix(delia, path), f"{path}")

    def test_columns_without_a_name_are_listed(self, tmp_path: Path) -> None:
        path = tmp_path / "t.csv"
        path.write_text(',instruction,output,\n0,a," ""b"""\n1,c,d,\n'.replace('"""\n', '""",\n'))
        assert shown(path) == ['u:a | a: "b"', "u:c | a:d"]
        assert mixed(path).manifest.details["read"]["cache"] == {"ignored": ["column 1"]}

    def test_cells_of_any_length(self, tmp_path: Path) -> None:
        path = tmp_path / "t.csv"
        path.write_text('instruction,output\n"' + "a,\n" * 100_000 + 'b",c\n')
        assert len(questions(path)[0]) == 300_001


def test_an_arrow_file_with_offsets_out_of_bounds(delia: Delia, tmp_path: Path) -> None:
    data = bytearray(spelled("arrow", [row("a"), row("b")]))
    offsets = (0).to_bytes(4, "little") + (4).to_bytes(4, "little") + (13).to_bytes(4, "little")
    place = data.index(offsets)
    data[place + 4 : place + 8] = (2**30).to_bytes(4, "little")
    path = tmp_path / "a.arrow"
    path.write_bytes(data)
    refused(run_mix(delia, path), f"{path} cannot be read: ")


def test_an_arrow_file_with_damaged_sizes(tmp_path: Path) -> None:
    data, path = spelled("arrow", ROWS), tmp_path / "a.arrow.gz"
    refusals = set()
    for place in range(0, len(data) - 8, 8):
        size = (2**45).to_bytes(8, "little")
        path.write_bytes(gzip.compress(data[:place] + size + data[place + 8 :], 1))
        try:
            list(open_source(path).rows())
        except DeliaError as error:
            check_line(error)
            refusals.add(str(error))
    assert f"{path} cannot be read: it needs more memory than there is; check the file" in refusals


def test_the_guide_names_every_ending_column_and_reason() -> None:
    guide = Path(__file__).parents[2] / "docs" / "guides" / "input-formats.md"
    named = set(re.findall(r"`([^`\n]+)`", guide.read_text("utf-8")))
    columns = {name for names in FORMAT_COLUMNS.values() for name in names} | MEANINGFUL
    reasons = {*UNSUPPORTED_COLUMNS.values(), "duplicate", "also_in_task", "names_token"}
    reasons |= {"overlaps_test", "task_row_is_held_out", "contrast_row_is_held_out", NO_ANSWER}
    assert {*KINDS, ".gz", ".zst", *columns, *reasons, "reasoning_removed"} <= named
