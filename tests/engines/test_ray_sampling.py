"""Sampling on a Ray cluster of a head and two workers, with a replica of vLLM on each worker.

In float32 a row's scores depend so little on its batch that texts are equal.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from delia_data.engines import Engine, Request, Sampling, load_engine
from delia_data.engines.ray import _connected
from delia_data.engines.transformers import TransformersEngine
from delia_data.errors import EngineError, InputError
from delia_data.models import DEFAULT_MODEL, identify, load_model, load_tokenizer
from delia_data.ranking import row_seed
from delia_data.records import Message
from delia_data.sampling import Query, read_cache, sample

ray = pytest.importorskip("ray")
pytest.importorskip("vllm")
pytestmark = [
    pytest.mark.engines,
    # Ray Data 2.60 copies its own settings, those among them that it has given up, and its LLM
    # processor is written for an older pydantic.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

DRAWN = Sampling(temperature=0.7, top_p=0.95, max_tokens=10)
ANIMALS = ["cats", "dogs", "owls", "bees", "ants", "cows", "bats", "eels", "hens", "rats"]


def ask(text: str, number: int) -> Request:
    return Request(f"{number}", (Message("user", text),), row_seed(0, f"{number}", "test"))


class Nodes:
    """A cluster of a head, and of workers each of which has room for one replica."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.node = {"num_cpus": 1, "object_store_memory": 80 << 20}
        head = {**self.node, "num_cpus": 0, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.workers = [self.cluster.add_node(**self.node) for _ in range(2)]
        ray.init(address=self.cluster.address, log_to_driver=False, logging_level=logging.FATAL)

    def lose_one(self) -> None:
        """Kill a worker like a power failure; another one starts."""
        self.cluster.remove_node(self.workers.pop(0), allow_graceful=False)
        self.workers.append(self.cluster.add_node(**self.node))

    def close(self) -> None:
        ray.shutdown()
        self.cluster.shutdown()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    found = Nodes()
    yield found
    found.close()


@pytest.fixture(scope="module")
def engine() -> Engine:
    return load_engine(
        "ray",
        model=DEFAULT_MODEL,
        replicas=2,
        batch_size=4,
        batches=2,
        window=64,
        dtype="float32",
        max_model_len=512,
        kv_cache_gib=0.5,
        engine_kwargs={"max_num_seqs": 8},
    )


@pytest.fixture(scope="module")
def other() -> TransformersEngine:
    """The transformers engine, which samples in the same way."""
    import torch

    torch.set_num_threads(1)
    model = load_model(DEFAULT_MODEL, dtype=torch.float32)
    return TransformersEngine(model, load_tokenizer(DEFAULT_MODEL), batch_size=8)


def test_lost_worker_loses_and_repeats_no_row(
    nodes: Nodes, engine: Engine, other: TransformersEngine
) -> None:
    """The worker goes when the first answers are there, and rows are still to be asked.

    Answers are those of the engine over transformers, and so are errors and users' turns.
    """
    asked = [ask(f"Tell me about {name} and {i}.", i) for i, name in enumerate(ANIMALS * 4)]
    asked.append(Request("user", (), row_seed(0, "user", "test"), "user", "How do I"))
    given = [*asked, ask("word " * 600, 99)]
    answered: list[str] = []
    texts: dict[str, Any] = {}
    for completion in engine.generate(given, DRAWN):
        answered.append(completion.id)
        if completion.error is None:
            texts[completion.id] = completion
        if len(texts) == 1:
            nodes.lose_one()
    assert Counter(answered) == Counter(request.id for request in given)
    assert set(answered) - set(texts) == {"99"}
    assert texts["user"].text.startswith("How do I")
    sure = [*asked[:6], asked[-1]]
    assert {c.id: c for c in other.generate(sure, DRAWN)} == {r.id: texts[r.id] for r in sure}


def test_sample_a_cache(nodes: Nodes, engine: Engine, tmp_path: Path) -> None:
    """Two windows: the first fills what the target asks for, the second replaces what failed."""
    queries = [Query(f"Tell me about {name}.", "test") for name in ANIMALS]
    queries.insert(2, Query("word " * 600, "test"))
    manifest = sample(engine, queries, tmp_path / "a", target=6, sampling=DRAWN, filters=[])
    assert manifest.rows["kept"] == 6
    assert manifest.dropped == {"failed": 1}
    assert len({record.answer for record in read_cache(tmp_path / "a")}) == 6


def test_describe_identifies_the_weights(engine: Engine, other: TransformersEngine) -> None:
    identity = identify(other.model, other.tokenizer)
    assert engine.describe() == {"engine": "ray", "model": identity}


def test_unknown_model_is_one_line() -> None:
    with pytest.raises(InputError, match="cannot be loaded") as raised:
        load_engine("ray", model="./no-such-folder")
    assert len(str(raised.value).splitlines()) == 1


def test_another_cluster_is_rejected(nodes: Nodes) -> None:
    elsewhere = load_engine("ray", model=DEFAULT_MODEL, address="10.0.0.1:6379")
    with pytest.raises(InputError, match=r"connected to the Ray cluster .*, not to 10\.0\.0\.1"):
        list(elsewhere.generate([ask("Hello", 0)], DRAWN))


def test_a_failure_of_the_cluster_is_one_line(nodes: Nodes) -> None:
    @ray.remote(max_retries=0)  # type: ignore[untyped-decorator]
    def fail() -> None:
        raise ZeroDivisionError("in a task")

    text = r"the Ray cluster failed: .*in a task"
    with pytest.raises(EngineError, match=text) as raised, _connected(None):
        ray.get(fail.remote())
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_no_cluster_answers(address: str, tmp_path: Path) -> None:
    """In a process that is connected to no cluster."""
    run = "from delia_data.cli import main; main()"
    options = ["--engine=ray", "--model=smollm2-135m-instruct", f"-oaddress={address}"]
    done = subprocess.run(
        [sys.executable, "-c", run, "sample", str(tmp_path / "cache"), "--target=4", *options],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert f"no Ray cluster answers at {address}" in done.stderr
    assert "Traceback" not in done.stderr
