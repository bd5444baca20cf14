"""Queries that a model generates: as many as requested, always in the same order.

    generator.request(number, accepted) ──▶ engine ──▶ CompletionLog (on disk)
                                                            │ in the order of the numbers
    queries, in order ◀── different from all before ◀── checks ◀── generator.texts(completion)

A generator builds prompts for numbered requests and extracts queries from the completions. Which
texts are accepted depends on the completions in the order of their numbers, not on the order they
arrived in: requesting more queries extends the list and changes nothing in it.

There are two generators:

- `self_queries` is Magpie (arXiv 2406.08464). A chat model that gets its template up to where the
  user speaks continues as a user would. Small models ramble there, so the user's turn is begun for
  them with a topic and with a word that starts a request:

      <|im_start|>user
      I'm curious about film cameras. How │ do they differ from digital ones?
      └────────── lead ────────────┘ start└────── written by the model ─────┘

  If the text after the lead names the topic itself, the lead is removed.
- `expanded_queries` is self-instruct (arXiv 2212.10560, section 2.2): eight queries are shown, and
  a new one is accepted if its ROUGE-L with every earlier query is below 0.7. The queries shown in
  a round follow from the seed and from the queries accepted in earlier rounds:

      six seeds, two grown queries ──▶ "write eight more" ──▶ a numbered list
               ▲                                                  │
               └────────────── accepted queries ◀─────────────────┘

An engine cannot run twice at once, so queries are not generated while answers are sampled.
`ensure` generates them beforehand; iterating yields the existing ones and ends.

`query_checks` decides whether a text is a request. A small model's idea of what a user says is
often none: it answers, greets, tells a story, or asks to rewrite a text that it never gives.
docs/decisions.md describes the texts that the checks were written against.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, ClassVar, Final, TypeAlias, cast

from delia_data.engines.base import Engine, Finish, Request, Sampling
from delia_data.errors import InputError
from delia_data.outputs import canonical_json
from delia_data.ranking import rank, row_seed
from delia_data.records import Message, content_id
from delia_data.sampling.budget import Budget
from delia_data.sampling.completion_log import CompletionLog
from delia_data.sampling.filters import is_refusal
from delia_data.sampling.queries import (
    BundledQueries,
    FileQueries,
    Queries,
    Query,
    QueryList,
    QuerySource,
    bundled_topics,
)
from delia_data.sampling.similarity import Novelty, rouge_l, words
from delia_data.tokens import DEFAULT_TOKEN

BUNDLED: Final = "bundled"
SELF: Final = "self"

SELF_SAMPLING: Final = Sampling(temperature=0.8, top_p=0.95, max_tokens=64)
"""Sampling parameters of `self_queries`; docs/decisions.md explains the temperature."""

EXPAND_SAMPLING: Final = Sampling(temperature=0.8, top_p=0.95, max_tokens=256)
"""Sampling parameters of `expanded_queries`."""

LEADS: Final = (
    "",
    "",
    "I have a question about {topic}.",
    "I have been thinking about {topic}.",
    "I know little about {topic}.",
    "I need some help with {topic}.",
    "I want to learn about {topic}.",
    "I'm curious about {topic}.",
    "I'm reading about {topic}.",
    "I'm writing something about {topic}.",
    "Let's talk about {topic}.",
    "My class is about {topic}.",
    "My friend told me about {topic}.",
    "Yesterday I heard about {topic}.",
)
"""Sentences that name a topic; one in seven is empty."""

STARTS: Final = (
    "Can you",
    "Compare the",
    "Could you",
    "Describe a",
    "Describe how",
    "Explain how",
    "Explain the",
    "Give me",
    "Help me",
    "How can I",
    "How do",
    "How would",
    "Is there",
    "List the",
    "Name some",
    "Suggest a",
    "Tell me",
    "What are",
    "What happens",
    "What is",
    "What would",
    "When should",
    "Which",
    "Why",
    "Write a",
)
"""First words of a request. None becomes another word with an ending ("List" would: "Listed")."""

PROMPT: Final = """Here are {shown} requests that people make of an assistant:

{list}

Write {wanted} more requests. Each is about something else and asks for another kind of answer. \
Give a numbered list of requests, and nothing else."""
"""Prompt of `expanded_queries`."""

_MIN_YIELD: Final = 0.1  # queries per request; lower bound when planning a wave

_ROUND_SIZE: Final = 32
_ROUGE_L: Final = 0.7  # with an earlier query, from which a query is a near duplicate
_STEM: Final = 4  # letters by which a word of the topic is recognized in another form

_SHOWN: Final = 8  # queries in a prompt of `expanded_queries`
_SHOWN_GROWN: Final = 2  # of which grown, once there are as many
_WANTED: Final = 8
_ITEM: Final = re.compile(
    r"^\s*(?:\W{0,2}\d{1,2}\s*[.):]|[-*•])\s*(?:\d{1,2}[.)]\s+)*(?:\(\d{1,2}\))?(.*)", re.M
)
_AROUND_ITEM: Final = ' \t\n*_"“”'


def load_queries(
    source: QuerySource,
    *,
    engine: Engine | None = None,
    folder: str | os.PathLike[str] | None = None,
    seed: int = 0,
    token: str = DEFAULT_TOKEN,
    expand: int | None = None,
    exemplar: bool = False,
) -> Queries:
    """Return the queries that a source names.

    Args:
        source: `"bundled"`; `"self"`, which lets the model generate them; any input that
            `FileQueries` reads; or `Query` objects. `Queries` are returned as they are.
        engine: Engine that generates queries.
        folder: Folder of generated queries, which holds nothing else.
        seed: Seed of the run.
        token: The special token, which no generated query may contain.
        expand: Number of queries to generate from those of the source.
        exemplar: Require a reference answer with every query.

    Raises:
        InputError: The source cannot be read or is empty, options contradict each other, or
            generated queries lack an engine or a folder.
    """
    check_query_options(source, expand=expand, exemplar=exemplar)
    name = source if isinstance(source, str) else None
    if name == BUNDLED:
        return BundledQueries(seed=seed)
    if name == SELF:
        if engine is None or folder is None:
            raise InputError("queries='self' needs an engine and a folder: give both")
        return self_queries(engine, folder, seed=seed, token=token)
    given: Queries
    if isinstance(source, list | tuple) and all(isinstance(each, Query) for each in source):
        given = QueryList(source)
    elif hasattr(source, "describe") and not hasattr(source, "__arrow_c_stream__"):
        given = cast(Queries, source)
    else:
        rows = FileQueries(source)
        rows.describe()  # reads all rows, so that errors come before anything is generated
        if exemplar and rows.referenced < rows.rows:
            raise InputError(
                f"{rows.rows - rows.referenced:,} of {rows.rows:,} queries have no reference "
                "answer to show: give rows with answers, or leave out --exemplar"
            )
        given = rows
    if expand is None:
        return given
    if engine is None or folder is None:
        raise InputError("expand needs an engine and a folder: give both")
    return expanded_queries(engine, given, folder, seed=seed, token=token, limit=expand)


def check_query_options(source: object, *, expand: int | None, exemplar: bool) -> bool:
    """Return whether a model generates the queries, after checking the options.

    Raises:
        InputError: The options contradict each other.
    """
    name = source if isinstance(source, str) else None
    generated = name == SELF or expand is not None
    if expand is not None and name in (BUNDLED, SELF):
        raise InputError(
            "--expand generates queries from a few of your own: give them with --queries FILE"
        )
    if expand is not None and expand < 1:
        raise InputError(f"--expand {expand} is too few queries: give at least 1")
    if exemplar and (generated or name == BUNDLED):
        raise InputError(
            "--exemplar shows the query's reference answer, and these queries have none: give "
            "rows with answers as --queries"
        )
    return generated


def self_queries(
    engine: Engine,
    folder: str | os.PathLike[str],
    *,
    seed: int = 0,
    topics: Sequence[str] | None = None,
    starts: Sequence[str] = STARTS,
    sampling: Sampling = SELF_SAMPLING,
    token: str = DEFAULT_TOKEN,
    english: bool = True,
) -> GeneratedQueries:
    """Generate queries from the chat template alone (Magpie).

    Query number `i` depends on the seed and on `i` only. A large model needs no help:
    `topics=(), starts=("",)` is Magpie as published.

    Args:
        engine: Engine that can write the user's turn.
        folder: Folder of the texts, which holds nothing else.
        seed: Seed of topics, starts and sampling.
        topics: Topics, each fit for "about {topic}". The bundled ones if None; the model chooses
            if empty.
        starts: First words of a request.
        sampling: Sampling parameters.
        token: The special token, which no query may contain.
        english: Accept English queries only.

    Raises:
        InputError: The engine cannot write the user's turn, or there are no starts.
    """
    if not engine.writes_users:
        raise InputError(
            f"engine {engine.describe().get('engine')!r} cannot write the user's turn: "
            "use transformers or vllm, or generate queries from a few seeds (--expand)"
        )
    if not starts:
        raise InputError('there are no starts: give at least one; "" leaves it to the model')
    subjects = tuple(bundled_topics() if topics is None else topics)
    generator = _SelfGenerator(seed, subjects, tuple(starts))
    return GeneratedQueries(
        engine, generator, folder, sampling=sampling, token=token, english=english
    )


def expanded_queries(
    engine: Engine,
    seeds: Iterable[Query],
    folder: str | os.PathLike[str],
    *,
    seed: int = 0,
    sampling: Sampling = EXPAND_SAMPLING,
    token: str = DEFAULT_TOKEN,
    english: bool = True,
    limit: int | None = None,
) -> GeneratedQueries:
    """Generate queries from a few seed queries (self-instruct); the seeds come first.

    Args:
        engine: Engine that generates; any will do.
        seeds: Queries to start from; they are held in memory.
        folder: Folder of the texts, which holds nothing else.
        seed: Seed of the choice of shown queries and of sampling.
        sampling: Sampling parameters.
        token: The special token, which no query may contain.
        english: Accept English queries only.
        limit: Maximum number of generated queries. More can be generated later; they follow.

    Raises:
        InputError: There are no seeds, or the limit is below 1.
    """
    distinct = tuple({query.text: query for query in seeds}.values())
    if not distinct:
        raise InputError("there are no seeds to generate queries from: give at least one")
    generator = _ExpandGenerator(seed, distinct)
    return GeneratedQueries(
        engine, generator, folder, sampling=sampling, token=token, english=english, limit=limit
    )


def follow_up_request(answered: Request, answer: str, row_id: str, seed: int) -> Request:
    """Build the request for the user's turn that follows an answer.

    Like `self_queries` it begins the turn with a word that starts a request, unless the user does
    not speak English.
    """
    turns = (*answered.messages, Message("assistant", answer))
    start = STARTS[rank(seed, row_id, "start") % len(STARTS)]
    prefill = "" if is_foreign(answered.messages[-1].content) else start
    return Request(row_id, turns, seed, "user", prefill, SELF_SAMPLING.max_tokens)


def follow_up_fault(answered: Request, text: str, finish: Finish) -> str | None:
    """Return the reason to reject a user's turn that `follow_up_request` asked for, or None.

    It may refer to what was said before, but not ask for the same again.
    """
    earlier = [turn.content for turn in answered.messages if turn.role == "user"]
    checks = dict(query_checks("", english=not is_foreign(earlier[-1])))
    for needless in ("names_token", "lacks_context"):
        checks.pop(needless, None)
    if (reason := rejection_reason(text, finish, checks)) is not None:
        return reason
    repeats = any(rouge_l(words(text), words(each)) >= _ROUGE_L for each in earlier)
    return "near_duplicate" if repeats else None


@dataclass(frozen=True)
class _SelfGenerator:
    """Starts the user's turn with a topic and the first words of a request.

    Attributes:
        kind: `kind` of the queries.
        seeds: Queries that come before the generated ones.
        round_size: Requests of a round. A prompt may depend on the queries accepted before it.
        rounds_ahead: Number of rounds to request together.
    """

    seed: int
    topics: tuple[str, ...]
    starts: tuple[str, ...]
    kind: ClassVar = "self"
    seeds: ClassVar[Sequence[Query]] = ()
    round_size: ClassVar = _ROUND_SIZE
    rounds_ahead: ClassVar = 128

    def describe(self) -> dict[str, Any]:
        return {
            "source": "self",
            "seed": self.seed,
            "topics": hashlib.sha256(canonical_json(self.topics)).hexdigest(),
            "leads": list(LEADS),
            "starts": list(self.starts),
        }

    def request(self, number: int, accepted: Sequence[Query]) -> Request:
        lead, start, _ = self._beginning(number)
        row_id = content_id([Message("user", f"self:{number}")])
        seed = row_seed(self.seed, row_id, "query")
        return Request(row_id, (), seed, role="user", prefill=f"{lead} {start}".strip())

    def texts(self, number: int, text: str) -> list[str]:
        lead, _, topic = self._beginning(number)
        rest = text.removeprefix(lead).strip()
        return [rest if _mentions(rest, topic) else text.strip()]

    def _beginning(self, number: int) -> tuple[str, str, str]:
        """Return lead, start and topic of a request; the lead may be empty."""
        start = self.starts[rank(self.seed, str(number), "start") % len(self.starts)]
        if not self.topics:
            return "", start, ""
        lap, place = divmod(number, len(self.topics))
        topic = _shuffled_topics(self.seed, self.topics, lap)[place]
        lead = LEADS[rank(self.seed, str(number), "lead") % len(LEADS)]
        return lead.format(topic=topic), start, topic


@cache
def _shuffled_topics(seed: int, topics: tuple[str, ...], lap: int) -> tuple[str, ...]:
    """Return the topics in the order of a lap; each occurs once per lap."""
    return tuple(sorted(topics, key=lambda topic: rank(seed, topic, f"topics:{lap}")))


def _mentions(text: str, topic: str) -> bool:
    """Return whether a text contains a long word of the topic in any form."""
    stems = {word[: max(_STEM, len(word) - 2)] for word in words(topic) if len(word) >= _STEM}
    return any(word.startswith(stem) for word in words(text) for stem in stems)


@dataclass(frozen=True)
class _ExpandGenerator:
    """Shows queries and requests others."""

    seed: int
    seeds: tuple[Query, ...]
    kind: ClassVar = "expanded"
    round_size: ClassVar = _ROUND_SIZE
    rounds_ahead: ClassVar = 1

    def describe(self) -> dict[str, Any]:
        seeds = [[query.text, query.reference] for query in self.seeds]
        return {
            "source": "expand",
            "seed": self.seed,
            "seeds": hashlib.sha256(canonical_json(seeds)).hexdigest(),
            "prompt": PROMPT,
        }

    def request(self, number: int, accepted: Sequence[Query]) -> Request:
        grown = self._draw(accepted[len(self.seeds) :], _SHOWN_GROWN, f"{number}:grown")
        given = self._draw(self.seeds, _SHOWN - len(grown), f"{number}:seeds")
        shown = [" ".join(query.text.split()) for query in (*given, *grown)]
        lines = "\n".join(f"{place}. {text}" for place, text in enumerate(shown, 1))
        prompt = PROMPT.format(shown=len(shown), list=lines, wanted=_WANTED)
        row_id = content_id([Message("user", f"expand:{number}")])
        seed = row_seed(self.seed, row_id, "query")
        return Request(row_id, (Message("user", prompt),), seed)

    def texts(self, number: int, text: str) -> list[str]:
        items = [item.strip(_AROUND_ITEM) for item in _ITEM.findall(text)]
        return [item for item in items if item]

    def _draw(self, queries: Sequence[Query], count: int, purpose: str) -> list[Query]:
        """Draw different queries by a hash, preferring short ones."""
        drawn: dict[int, Query] = {}
        for draw in range(4 * count):
            if not queries or len(drawn) == min(count, len(queries)):
                break
            place = rank(self.seed, str(draw), purpose) % len(queries)
            if len(queries[place].text.split()) <= MAX_WORDS or draw > 2 * count:
                drawn[place] = queries[place]
        return list(drawn.values())


class GeneratedQueries:
    """Queries that a model generates into a folder, as `GrowableQueries`."""

    def __init__(
        self,
        engine: Engine,
        generator: _SelfGenerator | _ExpandGenerator,
        folder: str | os.PathLike[str],
        *,
        sampling: Sampling,
        token: str = DEFAULT_TOKEN,
        english: bool = True,
        limit: int | None = None,
    ) -> None:
        """Set up without reading or requesting anything; arguments as for `self_queries`.

        The limit is not part of the description, because a longer list begins with the shorter one.

        Raises:
            InputError: The limit is below 1.
        """
        if limit is not None and limit < 1:
            raise InputError(f"limit {limit} is too few queries: give at least 1")
        self._max = None if limit is None else len(generator.seeds) + limit
        self._engine = engine
        self._generator = generator
        self._sampling = sampling
        self._checks = query_checks(token, english=english)
        self._settings = {
            "checks": {
                "english": english,
                "rouge_l": _ROUGE_L,
                "token": token,
                "words": [MIN_WORDS, MAX_WORDS],
            }
        }
        self._log = CompletionLog(folder)
        self._novelty = Novelty(_ROUGE_L)
        self._accepted: list[Query] = list(generator.seeds)
        for query in generator.seeds:
            self._novelty.add(query.text)
        self._rejected: list[tuple[str, str]] = []
        self._checked = 0  # all completions with lower numbers are checked
        self._accepted_before_round = len(self._accepted)

    def describe(self) -> dict[str, Any]:
        """Return everything that texts and order depend on: model, prompts and checks."""
        return {
            **self._generator.describe(),
            "sampling": self._sampling.as_dict(),
            **self._settings,
            "writer": self._engine.describe(),
        }

    def __len__(self) -> int:
        """Return the number of queries so far."""
        self._read()
        return len(self._accepted[: self._max])

    def __iter__(self) -> Iterator[Query]:
        """Yield the existing queries in order."""
        self._read()
        yield from self._accepted[: self._max]

    @property
    def spent(self) -> tuple[int, float]:
        """Prompt and generated tokens of all texts, and dollars; unknown prices count as 0."""
        self._read()
        return self._log.spent

    @property
    def dropped(self) -> dict[str, int]:
        """Number of rejected texts by reason."""
        self._read()
        return dict(sorted(Counter(reason for reason, _ in self._rejected).items()))

    def rejected(self) -> Iterator[tuple[str, str]]:
        """Yield reason and text of every rejected text."""
        self._read()
        yield from self._rejected

    def ensure(
        self,
        count: int,
        *,
        tries: int = 20,
        budget: Budget | None = None,
    ) -> int:
        """Generate until there are `count` queries, seeds included.

        Completions on disk are never requested again. The engine must be idle.

        Returns:
            The number of queries: fewer than `count` if the tries, the limit or the budget were
            used up.

        Raises:
            InputError: No generated text could be used.
            EngineError: The engine failed, or 32 requests failed in a row.
            SettingsError: The folder was started with other settings.
        """
        count = count if self._max is None else min(count, self._max)
        with self._log.writing(self.describe()):
            self._check_completions()
            last = self._checked + tries * max(0, count - len(self._accepted))
            affordable = True
            while affordable and len(self._accepted) < count and self._checked < last:
                accepted = self._accepted[: self._accepted_before_round]
                affordable = self._log.request(
                    self._engine,
                    self._next_numbers(count),
                    partial(self._generator.request, accepted=accepted),
                    self._sampling,
                    purpose="queries",
                    budget=budget,
                    on_completion=self._check_completions,
                )
        if affordable and len(self._accepted) == len(self._generator.seeds) < count:
            reasons = Counter(reason for reason, _ in self._rejected).most_common()
            listed = ", ".join(f"{n} {reason}" for reason, n in reasons)
            raise InputError(
                f"none of {self._checked:,} texts that the model wrote can be used as a "
                f"query ({listed}): use another model, or give queries"
            )
        return len(self._accepted[: self._max])

    def _read(self) -> None:
        self._log.read(self.describe())
        self._check_completions()

    def _check_completions(self) -> None:
        """Check completions in the order of their numbers, up to the first missing one."""
        while (row := self._log.by_number.get(self._checked)) is not None:
            texts = self._generator.texts(row.number, row.text)
            for text in texts[:-1]:
                self._check(text, "stop")
            if texts:  # only the last text of a completion can be truncated
                self._check(texts[-1], row.finish)
            else:
                reason = "failed" if row.finish == "error" else "no_query_found"
                self._rejected.append((reason, row.text))
            self._checked += 1
            if self._checked % self._generator.round_size == 0:
                self._accepted_before_round = len(self._accepted)

    def _check(self, text: str, finish: Finish) -> None:
        reason = rejection_reason(text, finish, self._checks)
        if reason is None and not self._novelty.is_new(text):
            reason = "near_duplicate"
        if reason is None:
            self._novelty.add(text)
            self._accepted.append(Query(text, self._generator.kind))
        else:
            self._rejected.append((reason, text))

    def _next_numbers(self, count: int) -> list[int]:
        """Return the next requests: full rounds, as many as are probably needed and allowed."""
        written = len(self._accepted) - len(self._generator.seeds)
        rate = max(written / self._checked, _MIN_YIELD) if self._checked else 1.0
        size = self._generator.round_size
        rounds = math.ceil((count - len(self._accepted)) / rate / size)
        begin = self._checked // size
        end = begin + min(max(rounds, 1), self._generator.rounds_ahead)
        return [n for n in range(begin * size, end * size) if n not in self._log.by_number]


Fault: TypeAlias = Callable[[str], object]
"""Returns a true value if a text has a fault."""

MIN_WORDS: Final = 3
MAX_WORDS: Final = 60

_MARK: Final = re.compile(
    r"<\|[^|]*\|>|\[/?INST\]|</?s>|^\s*(?:user|assistant|system|human|ai|q|a|bot)\s*:"
    r"|\n\s*(?:user|assistant|system|human|ai|a|answer|response)\s*:",
    re.I,
)
_LINK: Final = re.compile(r"https?:|www\.|\w@\w|(?:^|\s)[@#]\w{2,}")
_ANSWERING: Final = re.compile(
    r"(?:sure|certainly|of course|absolutely|great question|here (?:is|are)|here's|as an ai"
    r"|you are (?:an?|the) (?:helpful|ai)|you're (?:an?|the) (?:helpful|ai)|thank you|thanks"
    r"|(?:i'm|i am) (?:an ai|here to)|i can (?:help|assist|offer|provide)|yes|no)\b[^?]*$",
    re.I,
)
_ANSWERED: Final = re.compile(
    r"(?:^|[.?!\n]\s*)(?:(?:the )?(?:correct )?answer(?: is|:)|yes,|your (?:response|answer) must)"
    r"|\n\s*(?:sure|certainly|i can (?:help|assist|offer|provide)|i'm ready|here (?:is|are))\b",
    re.I,
)
_QUESTIONS: Final = """
    am are can could do does did has have how is may might shall should was were what when where
    which who whom whose why will would
"""
_VERBS: Final = """
    act adapt add advise analyse analyze answer argue arrange ask assemble assess assign brainstorm
    break build calculate categorise categorize change check choose cite classify collect combine
    come compare compile complete compose compute connect consider construct continue contrast
    convert convince copy correct count create critique debate decide define delete demonstrate
    derive describe design detect determine develop devise differentiate discuss distinguish divide
    draft dream edit elaborate estimate evaluate expand explain explore express extract fill find
    finish fix follow form format formulate generate give group guess guide help highlight identify
    illustrate imagine implement improve infer insert interpret introduce invent investigate judge
    justify kindly label list look make match mention modify multiply name offer order organise
    organize outline output paraphrase parse perform pick plan please predict prepare present
    pretend print produce propose prove provide put rank rate read rearrange recommend remove
    rephrase replace report research respond return reverse review revise reword rewrite say search
    select separate share shorten show simplify sketch solve sort specify spell state suggest sum
    summarise summarize suppose surprise take teach tell think transform translate turn update use
    verify write
"""
_ASKING: Final = re.compile(
    rf"(?:^|[.!:\n]\s*)(?:{'|'.join(_QUESTIONS.split())})\b"
    r"|(?:^|[.!:,\n]\s*|\band\s+|\bthen\s+)(?:i (?:need|want|wish|would like|would love)"
    rf"|i'd (?:like|love)|i(?:'m| am) (?:looking for|curious)|{'|'.join(_VERBS.split())})\b",
    re.I,
)
_STATING: Final = re.compile(
    r"(?:i|i'm|i've|i'd|i'll|my|we|we're|our|a|an|the|this|that|these|those|it|it's|he|she|they|his"
    r"|her|their|there|there's|here|hi|hello|hey|dear|thanks|\w+ed)\b"
    r"|[^?=]*=\s*\d|(?:\w+\W+){1,3}(?:is|was|are|were|has|have|had|said|says|will)\b",
    re.I,
)
_MATERIAL: Final = (
    r"(?:text|passage|paragraph|article|sentence|sentences|code|snippet|function|query|script|image"
    r"|picture|photo|graph|chart|table|data|dataset|file|video|link|email|e-mail|document|essay"
    r"|poem|story|input|content|list|statement|statements|words|phrase|scenario|options|problem"
    r"|equation|conversation|message|review|summary|plot|map)"
)
_POINTING: Final = re.compile(
    rf"\b(?:following|given|above|below|attached|provided|input)\s+(?:\w+\s+){{0,2}}?"
    rf"{_MATERIAL}\b|\bthis\s+(?:\w+\s+)?{_MATERIAL}\b|\b{_MATERIAL}\s+(?:below|above|provided)\b"
    r"|\b(?:as follows|the following)\b",
    re.I,
)
_DANGLING: Final = re.compile(
    r"(?:[\w']+\s+){1,4}(?:it|that|this|them|these|those)"
    r"(?:[?.!]|\s+(?:to|in|with|for|so|again|more|a bit|work|works|about)\b)",
    re.I,
)
_GIVEN: Final = re.compile(r"(?:[:\n]|[\"“'`‘\[({]\w).*\w.*\w|[.?!]\s+(?:\w+\W+){5}", re.S)
_ENGLISH: Final = """
    a about all an and are as at be between by can could describe did do does explain for from give
    had has have he her his how i if in into is it its list me most my name not of on one or our
    she should so some than that the their them there these they this to two up was we were what
    when where which while who whom whose why will with would write you your
"""
_COMMON: Final = frozenset(_ENGLISH.split())
_MOST_FOREIGN: Final = 0.1  # of the letters
_FEW_WORDS: Final = 6  # which may all be rare ones


def query_checks(token: str, *, english: bool = True) -> Mapping[str, Fault]:
    """Return the faults that rule out a query, by reason and in the order of the checks."""
    plain: dict[str, Fault] = {
        "names_token": lambda text: token in text,
        "empty": lambda text: not words(text),
        "chat_marks": _MARK.search,  # the text has more than one turn
        "too_short": lambda text: len(words(text)) < MIN_WORDS,
        "too_long": lambda text: len(words(text)) > MAX_WORDS,
        "repetition": _repeats,
        "link": _LINK.search,
        "unended": lambda text: text.rstrip()[-1:] in {":", ",", ";", "-", "(", "/"},
    }
    in_english: dict[str, Fault] = {
        "language": is_foreign,
        "answer_like": lambda text: (
            _ANSWERING.match(text) or _ANSWERED.search(text) or is_refusal(text)
        ),
        "lacks_context": _lacks_context,
        "no_request": lambda text: (
            _STATING.match(text) and "?" not in text and not _ASKING.search(text)
        ),
    }
    return {**plain, **in_english} if english else plain


def rejection_reason(text: str, finish: Finish, checks: Mapping[str, Fault]) -> str | None:
    """Return the reason to reject a text as a query, or None."""
    if finish == "error":
        return "failed"
    if finish == "length":
        return "cut_off"
    return next((reason for reason, has_fault in checks.items() if has_fault(text)), None)


def _repeats(text: str) -> bool:
    """Return whether a word comes three times in a row, or three words occur three times."""
    terms = words(text)
    threes = list(zip(terms, terms[1:], terms[2:], strict=False))
    stuck = any(one == two == three for one, two, three in threes)
    return stuck or max(Counter(threes).values(), default=0) >= 3


def is_foreign(text: str) -> bool:
    """Return whether a text is in another language than English."""
    letters = [letter for letter in text if letter.isalpha()]
    foreign = sum(not letter.isascii() for letter in letters)
    terms = words(text)
    strange = len(terms) >= _FEW_WORDS and not _COMMON.intersection(terms)
    return strange or foreign > _MOST_FOREIGN * len(letters)


def _lacks_context(text: str) -> bool:
    """Return whether a text refers to a text, an image, a list, or "it" without giving it."""
    reference = _DANGLING.match(text) or _POINTING.search(text)
    return reference is not None and not _GIVEN.search(text, reference.end())
