"""The token's distance to its keywords while it is trained, beside two controls.

    l2/json/middle               the token's own
    l2/json/middle/untrained     that of a second new token, which occurs in no row
    l2/json/middle/ordinary      that of random ordinary words, their mean

Neither control is added to the model or the tokenizer: what is saved is what would be saved
without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from delia_data.errors import InputError
from delia_data.evaluation.aligning import measure_alignment
from delia_data.evaluation.alignment import Distances, KeywordAlignment
from delia_data.evaluation.summary import first_middle_last

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MEASURES: Final = ("l2", "relative", "cosine")


class AlignmentWatch:
    """Measures where the token stands (a `training.watching.Watch`), in three blocks.

    The numbers of the first, the middle and the last block are given by name, as
    `measure_alignment` has them: `l2`, `relative` (L2 over the median L2 between ordinary words)
    and `cosine`.
    """

    def __init__(
        self, token: str, keywords: Sequence[str], *, init: str = "mean", words: int = 16
    ) -> None:
        """Keep what is measured.

        Args:
            token: The special token.
            keywords: Words to compare it with.
            init: How the token began; `"normal"` takes a second token that began so, any other a
                mean of all rows.
            words: Ordinary words that are read; all are controls.

        Raises:
            InputError: There are no keywords.
        """
        if not keywords:
            raise InputError("there are no keywords to watch: give at least one")
        self.token = token
        self.keywords = tuple(keywords)
        self.untrained = "normal" if init == "normal" else "mean"
        self.words = words

    def measure(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, step: int
    ) -> dict[str, float]:
        """Measure the model as it is at a step."""
        found = measure_alignment(
            model, tokenizer, self.token, self.keywords, words=self.words, controls=self.words
        )
        return {
            name: value for each in found.keywords for name, value in self._numbers(each).items()
        }

    def _numbers(self, found: KeywordAlignment) -> dict[str, float]:
        blocks = first_middle_last(len(found.nearer))
        places = dict(zip(("first", "middle", "last"), blocks, strict=True))
        numbers = {}
        for measure in _MEASURES:
            curves = {
                "": _curve(found.token, measure),
                "/untrained": _curve(found.untrained[self.untrained], measure),
                "/ordinary": found.ordinary[measure].mean,
            }
            for place, block in places.items():
                for ending, curve in curves.items():
                    numbers[f"{measure}/{found.keyword}/{place}{ending}"] = curve[block]
        return numbers


def _curve(distances: Distances, measure: str) -> tuple[float, ...]:
    mean: tuple[float, ...] = getattr(distances, measure).mean
    return mean
