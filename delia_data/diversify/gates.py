"""Gates: what a wording must pass before a row gets it, each with a reason when it fails.

failed, cut_off                     the model did not finish it
no_token, token_repeated,           the token stands there as often as asked, by itself,
token_glued, token_split            and is one id after the chat template
no_query_slot, other_mark           the query has one place; no braces, no other marks
no_words, too_short, too_long,      length, and words that come again
repetition
leaks_format, leaks_answer          nothing of the format, nothing of an answer
copies_row, copies_example          nothing of a query, nothing of what the writer was shown
about_rewording, answers,           (written by a model) a request, and this one
negated, no_request
wrong_language                      the language of the instruction
off_meaning, copies_request,        by embeddings: the request of the task, not a copy of
other_request, asks_more            it, no other request
near_copy                           unlike all that were accepted before, in words and meaning
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from delia_data.diversify.meaning import Embed, Meaning
from delia_data.diversify.text_gates import (
    MAX_WORDS,
    MIN_WORDS,
    NEAR_COPY,
    Gate,
    answers_gate,
    copies_gate,
    is_near_copy,
    leaks_gate,
    marks_gate,
    own_words,
    shape_gate,
    written_gate,
)
from delia_data.engines.base import Finish
from delia_data.errors import InputError
from delia_data.sampling.embeddings import Vectors
from delia_data.tasks import Task, Wording
from delia_data.tokens import add_token_to_tokenizer, render_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SHOWN: Final = 3  # rejected texts that are shown
_SURE: Final = 0.6
_RULED_OUT: Final = 0.01
_FEWEST_LETTERS: Final = 20
Detect = Callable[[str], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class GateResult:
    """What came of checking wordings.

    Attributes:
        accepted: The wordings that passed, in their order.
        rejected: The others, each with its reason.
    """

    accepted: tuple[Wording, ...]
    rejected: tuple[tuple[Wording, str], ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many were rejected, by reason."""
        return dict(sorted(Counter(reason for _, reason in self.rejected).items()))

    @property
    def share(self) -> float:
        """Share of all that was accepted, 0 to 1."""
        count = len(self.accepted) + len(self.rejected)
        return len(self.accepted) / count if count else 0.0

    def complaint(self) -> str:
        """Which gate rejects most, with three examples; empty where nothing was rejected."""
        if not self.rejected:
            return ""
        reason, count = Counter(reason for _, reason in self.rejected).most_common(1)[0]
        texts = [w.text for w, why in self.rejected if why == reason and w.text.strip()]
        shown = "; ".join(repr(text[:120]) for text in dict.fromkeys(texts[: 4 * _SHOWN]))
        shown = "; ".join(shown.split("; ")[:_SHOWN])
        return f"{reason} rejects most, {count:,} of {len(self.rejected):,}: {shown or 'no text'}"


class Gatekeeper:
    """Puts wordings through every gate, one after another, and remembers those that passed."""

    def __init__(
        self,
        task: Task,
        *,
        embed: Embed | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        detect: Detect | None = None,
        times: int = 1,
        examples: Iterable[str] = (),
        strict: bool = False,
    ) -> None:
        """Set up the gates of a task.

        Args:
            task: The task: its token, what it stands for, its rows.
            embed: Gives embeddings; without it the gates of meaning fall away.
            tokenizer: The tokenizer of the model that will be trained; without it, that the token
                is one id is left to `delia lint`. The token is added to it.
            detect: Tells languages; without it the gate of language falls away.
            times: How often a wording names the token.
            examples: What a writer was shown.
            strict: Ask for more, as for what a small model writes.

        Raises:
            InputError: `times` is below 1.
            TokenError: The tokenizer has the token with another role.
        """
        if times < 1:
            raise InputError(f"a wording cannot name the token {times} times: give at least 1")
        self._token, self._times, self._strict = task.token, times, strict
        gates = [marks_gate(task.token, times), shape_gate(task.token)]
        gates += [leaks_gate(task.token, task.leaks), answers_gate(task)]
        gates += [copies_gate(task, examples)]
        if strict:
            gates += [written_gate(task.token)]
        if tokenizer is not None:
            gates += [_whole_gate(task, tokenizer, times)]
        self._language = None if detect is None else _language_of(task, detect)
        if detect is not None and self._language is not None:
            gates += [_language_gate(task.token, self._language, detect)]
        self._gates: Sequence[Gate] = gates
        self._meaning = None if embed is None else Meaning(task, embed, strict=strict)
        self._tokenizer = tokenizer is not None
        self.accepted: list[Wording] = []
        self.rejected: list[tuple[Wording, str]] = []
        self._words: list[tuple[str, ...]] = []
        self._vectors: list[Vectors] = []

    @property
    def result(self) -> GateResult:
        """What came of it so far."""
        return GateResult(tuple(self.accepted), tuple(self.rejected))

    def judge(self, wording: Wording, finish: Finish = "stop") -> str | None:
        """Check one wording, and remember it.

        Returns:
            The reason why it fails, or None where it passes.
        """
        said = own_words(wording, self._token)
        reason = {"error": "failed", "length": "cut_off"}.get(finish)
        if reason is None:
            reason = next((why for gate in self._gates if (why := gate(wording))), None)
        if reason is None and any(is_near_copy(said, other) for other in self._words):
            reason = "near_copy"
        vector = None
        if reason is None and self._meaning is not None:
            vector = self._meaning.vectors([wording.text])[0]
            reason = self._meaning.fault(wording.text, vector)
            if reason is None and self._meaning.is_near_copy(vector, self._vectors):
                reason = "near_copy"
        if reason is not None:
            self.rejected.append((wording, reason))
            return reason
        self.accepted.append(wording)
        self._words.append(said)
        if vector is not None:
            self._vectors.append(vector)
        return None

    def judge_all(self, wordings: Iterable[Wording]) -> GateResult:
        """Check wordings in their order."""
        for wording in wordings:
            self.judge(wording)
        return self.result

    def describe(self) -> dict[str, Any]:
        """The settings that decide what passes."""
        return {
            "times": self._times,
            "words": [MIN_WORDS, MAX_WORDS],
            "near_copy": NEAR_COPY,
            "meaning": None if self._meaning is None else self._meaning.describe(),
            "language": self._language,
            "tokenizer": self._tokenizer,
            "strict": self._strict,
        }


def gate_task_wordings(
    task: Task,
    wordings: Iterable[Wording],
    *,
    embed: Embed | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    detect: Detect | None = None,
) -> GateResult:
    """Check wordings against a task, in their order.

    Args:
        task: The task.
        wordings: The wordings.
        embed: As `Gatekeeper`.
        tokenizer: As `Gatekeeper`.
        detect: As `Gatekeeper`.
    """
    keeper = Gatekeeper(task, embed=embed, tokenizer=tokenizer, detect=detect)
    return keeper.judge_all(wordings)


def _whole_gate(task: Task, tokenizer: PreTrainedTokenizerBase, times: int) -> Gate:
    """The token is one id after the chat template, as often as the wording names it."""
    token_id = add_token_to_tokenizer(tokenizer, task.token)
    query = task.train[0].query

    def gate(wording: Wording) -> str | None:
        turn = {"role": "user", "content": wording.fill(query)}
        ids = render_ids(tokenizer, [turn], generate=True)
        return None if ids.count(token_id) == times else "token_split"

    return gate


def _language_of(task: Task, detect: Detect) -> str | None:
    """The language of the instruction; None where it is not sure."""
    found = detect(" ".join((task.plain_request, *task.meanings)))
    code = max(found, key=lambda one: found[one])
    return code if found[code] >= _SURE else None


def _language_gate(token: str, language: str, detect: Detect) -> Gate:
    def gate(wording: Wording) -> str | None:
        said = " ".join(own_words(wording, token))
        if sum(letter.isalpha() for letter in said) < _FEWEST_LETTERS:
            return None
        found = detect(said)
        wrong = max(found.values()) >= _SURE and found.get(language, 0.0) < _RULED_OUT
        return "wrong_language" if wrong else None

    return gate
