"""Words of a text, as filters, duplicates and measures compare them."""

from __future__ import annotations

import re
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
    """The words of a text in lower case, without punctuation.

    Where a script puts no spaces between words, as Chinese, Japanese and Thai do, each
    character stands for a word.
    """
    folded = text.casefold()
    return tuple((_ASCII_WORD if folded.isascii() else _WORD).findall(folded))
