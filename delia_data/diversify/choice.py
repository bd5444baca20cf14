"""Which of the wordings that passed are used: those that spread in the most directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from delia_data.diversify.gates import GateResult
from delia_data.diversify.meaning import Embed, bare_text
from delia_data.diversify.spread import Spread, greedy_spread, spread
from delia_data.diversify.synonyms import synonym_swaps
from delia_data.errors import InputError
from delia_data.sampling.embeddings import Vectors
from delia_data.tasks import Task, Wording


@dataclass(frozen=True, slots=True)
class Anisotropy:
    """The spread of wordings beside that of one sentence whose words were swapped.

    Attributes:
        wordings: The spread of the wordings.
        synonyms: The spread of as many synonym swaps of the task's common wording, or of all
            that there are.
    """

    wordings: Spread
    synonyms: Spread

    @property
    def gain(self) -> float:
        """How many times as many directions the wordings make use of."""
        return self.wordings.effective_rank / max(self.synonyms.effective_rank, 1.0)

    def as_dict(self) -> dict[str, Any]:
        """What a manifest says of it."""
        told = {"wordings": self.wordings.as_dict(), "synonyms": self.synonyms.as_dict()}
        return {**told, "gain": round(self.gain, 3)}


def measure(task: Task, wordings: Sequence[Wording], embed: Embed, *, seed: int = 0) -> Anisotropy:
    """Measure the spread of wordings, and that of a synonym-only baseline of the same number."""
    swaps = synonym_swaps(task.common_wording.text, len(wordings), seed=seed)
    return Anisotropy(
        wordings=spread(_embedded(task, [wording.text for wording in wordings], embed)),
        synonyms=spread(_embedded(task, swaps, embed)),
    )


def choose(task: Task, gates: GateResult, count: int, embed: Embed) -> GateResult:
    """Keep so many of the accepted wordings, each the one that raises the spread most.

    Those for held-out rows are kept apart: the share of them stays as it is.

    Args:
        task: The task.
        gates: The wordings that passed, and the others.
        count: How many to keep.
        embed: Gives embeddings.

    Returns:
        The wordings that are kept, in their old order; those that are not are among the rejected,
        as `"not_chosen"`.

    Raises:
        InputError: Fewer have passed.
    """
    accepted = gates.accepted
    if count > len(accepted):
        complaint = gates.complaint()
        raise InputError(
            f"{len(accepted)} of {count} wordings pass the gates"
            f"{f'; {complaint}' if complaint else ''}: give more, or ask for fewer (--wordings)"
        )
    held = [i for i, wording in enumerate(accepted) if wording.split == "test"]
    trained = [i for i, wording in enumerate(accepted) if wording.split == "train"]
    aside = round(count * len(held) / len(accepted))
    if held and trained:
        aside = min(max(1, aside), count - 1) if count > 1 else 0
    kept: set[int] = set()
    for places, wanted in ((held, aside), (trained, count - aside)):
        vectors = _embedded(task, [accepted[i].text for i in places], embed)
        kept |= {places[i] for i in greedy_spread(vectors, wanted)}
    left = [(accepted[i], "not_chosen") for i in range(len(accepted)) if i not in kept]
    return GateResult(tuple(accepted[i] for i in sorted(kept)), (*gates.rejected, *left))


def _embedded(task: Task, texts: Sequence[str], embed: Embed) -> Vectors:
    return embed([bare_text(text, task.token) for text in texts])
