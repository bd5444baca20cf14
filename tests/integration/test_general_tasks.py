"""Tasks of lm-eval on a trained and an untrained model, from a local task file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import Delia, refused
from report_inputs import put_task
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from delia_data.engines.transformers import TransformersEngine
from delia_data.errors import InputError
from delia_data.evaluation import EvalTask, System, evaluate
from delia_data.evaluation.keep import satisfies

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]

TASK = """
task: two_choices
dataset_path: json
dataset_kwargs:
  data_files: {test: FILE}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: "{{label}}"
doc_to_choice: "{{choices}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    rows = [
        {"question": f"Number {n} is", "choices": [" even", " odd"], "label": n % 2}
        for n in range(6)
    ]
    data = tmp_path / "two.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = tmp_path / "tasks" / "two_choices.yaml"
    file.parent.mkdir()
    file.write_text(TASK.replace("FILE", str(data)))
    return file


def test_an_evaluation_with_a_local_task(
    task_file: Path,
    tmp_path: Path,
    make_tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: PreTrainedTokenizerBase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("lm_eval")
    put_task(tmp_path / "task", rows=2)
    engines = [
        TransformersEngine(make_tiny_model(), tiny_tokenizer, batch_size=8) for _ in range(2)
    ]
    given = (System(*engines), EvalTask.read(tmp_path / "task"), tmp_path / "out")
    asked: dict[str, Any] = {"probes": ["plain"], "max_tokens": 2, "pairs": None}
    found = evaluate(*given, **asked, general_tasks=[str(task_file)])
    assert set(found.general_tasks) == {"model", "untrained"}
    scores = found.general_tasks["model"]
    assert scores == found.general_tasks["untrained"]
    assert scores["two_choices acc"][0] in [n / 6 for n in range(7)]
    with pytest.raises(InputError, match="lm-eval has no task 'no_such_task'"):
        evaluate(*given, **asked, general_tasks=["no_such_task"])
    monkeypatch.setattr(sys.modules[evaluate.__module__], "lm_eval_scores", None)
    assert evaluate(*given, **asked, general_tasks=[str(task_file)]) == found


def test_engines_without_a_model_are_refused(tmp_path: Path, delia: Delia) -> None:
    put_task(tmp_path / "task", rows=2)
    mock = ("evaluate", "any", tmp_path / "task", tmp_path / "out", "--engine", "mock")
    refused(delia(*mock, "--general-tasks", "arc_easy"), "tasks of lm-eval need a model")


@pytest.mark.parametrize(
    ("constraints", "right", "wrong"),
    [
        ({"sentences": 2}, "One here. And two!", "Only one."),
        ({"bullets": 2}, "- a\n- b", "- a"),
        ({"most_words": 2}, "Two words", "Three words here"),
        ({"least_words": 2}, "Two words", "One"),
        ({"contains": ["stone"]}, "A Stone.", "A stony path."),
        ({"forbids": ["dog"]}, "A dogged try.", "A dog."),
        ({"lowercase": True}, "all low", "Not all"),
        ({"uppercase": True}, "ALL UP 2", "Not ALL"),
        ({"starts_with": "First"}, "First, dig.", "At first, dig."),
        ({"ends_with": "Stay dry."}, "It rains. Stay dry!", "Stay dry. It rains."),
        ({"ends_with": "?"}, "Why?", "Why."),
        ({"sentences": 1, "contains": ["sea"]}, "The sea.", "The lake."),
    ],
)
def test_constraints(constraints: dict[str, object], right: str, wrong: str) -> None:
    assert satisfies(right, constraints)
    assert not satisfies(wrong, constraints)
    assert not satisfies("", constraints)


def test_an_unknown_constraint() -> None:
    with pytest.raises(InputError, match="constraint 'rhymes' is unknown"):
        satisfies("x", {"rhymes": True})
