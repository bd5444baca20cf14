"""What `delia sample` and `delia plan` are asked for, and what is made of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from delia_data.cli._engine_options import engine_options
from delia_data.engines import Engine, Sampling, load_engine
from delia_data.errors import InputError
from delia_data.sampling import (
    Asking,
    BundledQueries,
    FileQueries,
    Filter,
    Limits,
    Queries,
    default_filters,
    expanded_queries,
    self_queries,
)

BUNDLED: Final = "bundled"
SELF: Final = "self"
_WRITTEN: Final = "queries"  # folder of written queries, inside the cache's


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that is asked for, under the names of the options."""

    out: Path
    target: int
    queries: str
    expand: int | None
    model: str
    engine: str
    device: str | None
    batch_size: int | None
    api_base: str | None
    concurrency: int | None
    rpm: int | None
    tpm: int | None
    engine_option: Sequence[str]
    temperature: float
    top_p: float
    max_tokens: int
    system: str | None
    exemplar: bool
    answers_per_query: int
    keep_truncated: bool
    keep_refusals: bool
    language: str | None
    near_duplicates: float
    budget_usd: float | None
    budget_tokens: int | None
    max_failures: int
    retries: int
    token: str
    seed: int

    def __post_init__(self) -> None:
        if self.expand is not None and self.queries in {BUNDLED, SELF}:
            raise InputError("--expand grows queries of yours: give a few with --queries FILE")
        if self.expand is not None and self.expand < 1:
            raise InputError(f"--expand {self.expand} is too few queries: give at least 1")
        if self.exemplar and (self.growing or self.queries == BUNDLED):
            raise InputError(
                "--exemplar shows the query's known answer, and these queries have none: give "
                "rows with answers as --queries"
            )

    @contextmanager
    def opened(self) -> Iterator[tuple[Engine, Queries]]:
        """Load the engine and find the queries; all that can be wrong before that is found first.

        Raises:
            InputError: An option is wrong, or the queries are.
            MissingExtraError: A library is not installed.
        """
        _ = self.sampling, self.asking, self.limits, self.filters()
        given = self._given()
        with closing(load_engine(self.engine, model=self.model, **self._options())) as engine:
            yield engine, self._queries(engine) if given is None else given

    @property
    def growing(self) -> bool:
        """Whether the model writes the queries too."""
        return self.queries == SELF or self.expand is not None

    @property
    def sampling(self) -> Sampling:
        """How answers are drawn."""
        return Sampling(self.temperature, self.top_p, self.max_tokens)

    @property
    def asking(self) -> Asking:
        """How a query is put to the model."""
        return Asking(self.system, self.exemplar, self.answers_per_query)

    @property
    def limits(self) -> Limits:
        """What may be spent, and how much may fail."""
        return Limits(self.budget_usd, self.budget_tokens, self.retries, self.max_failures)

    def filters(self) -> Sequence[Filter]:
        """What says why a pair is not kept; new ones each time, as some remember pairs."""
        return default_filters(
            self.token,
            keep_truncated=self.keep_truncated,
            keep_refusals=self.keep_refusals,
            language=self.language,
            near_duplicates=self.near_duplicates or None,
        )

    def _given(self) -> Queries | None:
        """Queries that are there without a model, read once; None where one is to write them."""
        if self.growing:
            return None
        if self.queries == BUNDLED:
            return BundledQueries(seed=self.seed)
        given = FileQueries(self.queries)
        if self.exemplar and given.referenced < given.rows:
            raise InputError(
                f"{given.rows - given.referenced:,} of {given.rows:,} queries have no reference "
                "answer to show: give rows with answers, or ask without --exemplar"
            )
        given.describe()
        return given

    def _queries(self, engine: Engine) -> Queries:
        folder = self.out / _WRITTEN
        if self.queries == SELF:
            return self_queries(engine, folder, seed=self.seed, token=self.token)
        seeds = FileQueries(self.queries)
        return expanded_queries(
            engine, seeds, folder, seed=self.seed, token=self.token, limit=self.expand
        )

    def _options(self) -> dict[str, Any]:
        """Options of the engine that were given."""
        named = {
            "device": self.device,
            "batch_size": self.batch_size,
            "api_base": self.api_base,
            "concurrency": self.concurrency,
            "rpm": self.rpm,
            "tpm": self.tpm,
        }
        return engine_options(named, self.engine_option)


def options_of(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a cache was begun with, by their names; where its queries lie is not known.

    Args:
        plan: The plan of a cache.
    """
    filters = {each if isinstance(each, str) else each["filter"]: each for each in plan["filters"]}
    near_duplicates = filters.get("duplicates", {}).get("threshold")
    queries = plan["queries"]["source"]
    return {
        **plan["sampling"],
        **plan["asking"],
        "model": plan["model"]["name"],
        "engine": plan["engine"],
        "seed": plan["seed"],
        "token": plan["token"],
        "keep_truncated": "truncated" not in filters,
        "keep_refusals": "refusal" not in filters,
        "language": filters.get("language", {}).get("language"),
        "near_duplicates": near_duplicates or 0.0,
        **({"queries": queries} if queries in {BUNDLED, SELF} else {}),
    }
