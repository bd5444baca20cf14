"""Words of a text, as filters, duplicates and quality figures compare them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

# Scripts that put no space between words: Thai to Tibetan, Burmese, Khmer, kana, Han.
_UNSPACED: Final = (
    r"\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
)
_WORD: Final = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])\w)+")
_ASCII_WORD: Final = re.compile(r"\w+", re.ASCII)


@lru_cache(maxsize=8)  # several filters look at the same answer, one after the other
def words(text: str) -> tuple[str, ...]:
    """Return the words of a text in lower case, without punctuation.

    In scripts that put no spaces between words, such as Chinese, Japanese and Thai, each
    character counts as a word.
    """
    folded = text.casefold()
    return tuple((_ASCII_WORD if folded.isascii() else _WORD).findall(folded))


def distinct(texts: Iterable[str], n: int) -> float | None:
    """Return distinct-n (Li et al. 2016, section 5.1): unique n-grams divided by all n-grams.

    Words are compared in lower case and without punctuation. None if there is no n-gram.
    """
    seen: set[tuple[str, ...]] = set()
    total = 0
    for text in texts:
        found = words(text)
        grams = list(zip(*(found[i:] for i in range(n)), strict=False))
        seen.update(grams)
        total += len(grams)
    return len(seen) / total if total else None
