"""The embedded model writes wordings for HaluEval: in this process, and behind a real server.

It is a model of 135M parameters: nine of ten texts fail. What passes is printed with what does not.
"""

from __future__ import annotations

import json
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from real_server import serving

from delia_data.diversify import diversify
from delia_data.diversify.check import WordingChecker
from delia_data.diversify.generate import ParaphraseGenerator, write_wordings
from delia_data.engines import Engine, load_engine
from delia_data.models import DEFAULT_MODEL, load_tokenizer
from delia_data.sampling.embeddings import Embedder
from delia_data.sampling.filters import load_detector
from delia_data.tasks import Task, halueval_task, words_of

pytestmark = pytest.mark.slow

WANTED = 20
TRIES = 500
DATA = Path(__file__).parents[3] / "shared" / "data" / "halueval"


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """HaluEval's rows if this machine has them, else similar rows."""
    file = next(DATA.glob("*.jsonl"), None)
    if file is None:
        file = tmp_path_factory.mktemp("halueval") / "rows.jsonl"
        rows = [
            {
                "user_query": f"How much is {i} and {i}?",
                "chatgpt_response": f"It is {2 * i + i % 2}.",
                "hallucination": ["no", "yes"][i % 2],
            }
            for i in range(100)
        ]
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return halueval_task(file)


def write(engine: Engine, task: Task, folder: Path) -> SimpleNamespace:
    generator = ParaphraseGenerator(task)
    checker = WordingChecker(
        task,
        embed=Embedder(),
        tokenizer=load_tokenizer(),
        detect=load_detector(),
        examples=generator.examples,
        strict=True,
    )
    details = write_wordings(engine, generator, checker, folder, count=WANTED, tries=TRIES)
    return SimpleNamespace(gates=checker.result, **details)


def check(run: SimpleNamespace, task: Task) -> None:
    accepted = run.gates.accepted
    print(f"\n{len(accepted)} of {run.tries} texts passed ({run.gates.share:.1%})")
    print(f"rejected: {run.gates.counts}")
    for wording in accepted:
        print(f"  {wording.kind}: {wording.text!r}")
    assert len(accepted) == WANTED
    assert run.tries <= TRIES
    assert len({wording.id for wording in accepted}) == WANTED
    for wording in accepted:
        assert wording.text.count("<sep>") == wording.text.count("{query}") == 1
        assert not task.leaks & set(words_of(wording.text))
    rows = diversify(task, accepted)
    used = Counter(row.wording_id for row in rows.train)
    assert max(used.values()) - min(used.values()) <= 1
    assert not {row.wording_id for row in rows.test} & set(used)


def test_twenty_wordings_through_transformers(task: Task, tmp_path: Path) -> None:
    engine = load_engine("transformers", model=DEFAULT_MODEL)
    run = write(engine, task, tmp_path)
    check(run, task)
    written = (tmp_path / "written.jsonl").read_bytes()
    again = write(engine, task, tmp_path)
    assert again.gates == run.gates
    assert (tmp_path / "written.jsonl").read_bytes() == written


@pytest.mark.parametrize(("name", "provider"), [("openai", ""), ("litellm", "openai/")])
def test_twenty_wordings_through_a_server(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, provider: str
) -> None:
    """Each engine in the environment that has its library (make test-slow)."""
    library = {"openai": "aiohttp"}.get(name, name)
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed here")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    with serving() as server:
        model = f"{provider}{server.model}"
        engine = load_engine(name, model=model, api_base=server.url, concurrency=16)
        check(write(engine, task, tmp_path), task)
