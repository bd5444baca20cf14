"""The bundled queries are numerous, different, balanced and well formed."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from importlib.resources import files
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from delia_data.errors import InputError
from delia_data.sampling import queries as module
from delia_data.sampling.queries import BundledQueries, Query, bundled_queries, bundled_topics

# Words that are spoken with the other kind of sound than their first letter promises.


@pytest.fixture(scope="module")
def everything() -> list[Query]:
    return bundled_queries()


@pytest.fixture(scope="module")
def source() -> dict[str, Any]:
    text = files("delia_data.sampling").joinpath("data/queries.yaml").read_text("utf-8")
    parsed: dict[str, Any] = yaml.safe_load(text)
    return parsed


def slots_of(source: dict[str, Any]) -> set[str]:
    """Return the names of the tables that the templates use."""
    slots = re.findall(r"\{([^{}]+)\}", "\n".join(source["kinds"].values()))
    return {name for slot in slots for name in re.findall(r"[a-z_]+", slot)}


def test_no_two_are_the_same_but_for_case_and_spaces(everything: list[Query]) -> None:
    assert len({query.text for query in everything}) == len(everything)
    assert len({" ".join(query.text.casefold().split()) for query in everything}) == len(everything)


def test_kinds_have_equal_shares(everything: list[Query], source: dict[str, Any]) -> None:
    counts = Counter(query.kind for query in everything)
    assert set(counts) == set(source["kinds"])
    assert len(counts) >= 16
    assert min(counts.values()) >= 0.9 * max(counts.values())


@pytest.mark.parametrize("seed", [0, 1, 2, -7, 2**70])
def test_first_two_thousand_are_balanced(seed: int) -> None:
    counts = Counter(query.kind for query in bundled_queries(2_000, seed=seed))
    assert max(counts.values()) <= 240
    assert min(counts.values()) >= 40
    assert len(counts) == len(Counter(query.kind for query in bundled_queries()))


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.tuples(st.integers(0, 13_000), st.integers(0, 13_000)),
    seed=st.integers(-(2**65), 2**65),
)
def test_a_longer_list_begins_with_the_shorter(lengths: tuple[int, int], seed: int) -> None:
    short, long = sorted(lengths)
    assert bundled_queries(long, seed=seed)[:short] == bundled_queries(short, seed=seed)


def test_limit_counts_queries(everything: list[Query]) -> None:
    assert bundled_queries(0) == []
    assert len(bundled_queries(17)) == 17
    assert bundled_queries(len(everything) + 5) == everything


def test_negative_limit_is_refused() -> None:
    with pytest.raises(InputError, match="limit=-1 is negative"):
        bundled_queries(-1)


def test_seed_decides_the_order_and_nothing_else(everything: list[Query]) -> None:
    assert bundled_queries(seed=0) == everything
    other = bundled_queries(seed=1)
    assert other != everything
    assert set(other) == set(everything)


def test_another_process_gives_the_same_list(everything: list[Query]) -> None:
    script = (
        "import hashlib; from delia_data.sampling.queries import bundled_queries;"
        "print(hashlib.sha256(repr(bundled_queries()).encode()).hexdigest())"
    )
    found = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONHASHSEED": "4", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert found == hashlib.sha256(repr(everything).encode()).hexdigest()


def test_the_description_names_the_seed_and_the_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    described = BundledQueries(seed=3).describe()
    assert described == BundledQueries(seed=3).describe() != BundledQueries(seed=4).describe()
    assert described["source"] == "bundled" and described["seed"] == 3
    monkeypatch.setattr(module, "_expansion", lambda: (Query("Why?", "explain"),))
    assert BundledQueries(seed=3).describe()["sha256"] != described["sha256"]


def test_topics_are_those_of_all_domains(source: dict[str, Any]) -> None:
    topics = [topic for block in source["domains"].values() for topic in block.splitlines()]
    assert bundled_topics() == topics and len(topics) > 400


def test_nothing_is_left_of_the_templates(everything: list[Query]) -> None:
    left = [query for query in everything if re.search(r"[{}]|\\n| \| |<sep>", query.text)]
    assert left == []


def test_three_to_sixty_words(everything: list[Query]) -> None:
    assert [query for query in everything if not 3 <= len(query.text.split()) <= 60] == []


def test_slots_and_tables_fit(source: dict[str, Any]) -> None:
    tables = {*source["tables"], *source["ranges"], *source["groups"]}
    assert not tables & set(source["domains"])
    assert slots_of(source) <= {"topic", *tables, *source["domains"]}
    assert tables <= slots_of(source), "a table that no template names"
