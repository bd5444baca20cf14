"""Refusals: answers that decline, told by how they begin.

Only the beginning counts, and only with a verb that an assistant declines with, so that "I can't
wait to see you" or an apology that somebody asked for stays. Written against the answers of
ChatGPT in HaluEval and of text-davinci-003 in Alpaca; `docs/decisions.md` has the figures.
"""

from __future__ import annotations

import re
from typing import Final

_HEAD: Final = 300  # characters that are looked at

_SORRY: Final = (
    r"(?:i(?:'m| am)?\s+)?(?:(?:very|really|so|truly|deeply)\s+)?"
    r"(?:sorry|afraid|apologi[sz]e)(?:\s+for (?:the|any) (?:confusion|inconvenience))?"
    r"(?:\s+to say)?[,.;:!]?\s+(?:but|that|however,?)?\s*"
)
_UNFORTUNATELY: Final = r"(?:unfortunately|regrettably|sadly),?\s+"
_AI: Final = (
    r"(?:(?:as|because|since|given that)\s+)?(?:i(?:'m| am)\s+)?(?:just |only |merely )?"
    r"an?\s+(?:ai\b|artificial intelligence|(?:large )?language model|virtual assistant"
    r"|digital assistant|text-based|computer program|chatbot)[^.!?\n]{0,60}?[,.;]?\s+"
    r"(?:and|so|but|therefore)?,?\s*"
)
_CANNOT: Final = r"(?:can(?:no|')?t|can not|could(?:n't| not)|won't be able to|will not be able to)"
_UNABLE: Final = (
    r"(?:am|'m)\s+(?:currently |simply )?(?:unable|not able|not capable|incapable|not allowed"
    r"|not permitted|not programmed|not designed|not equipped|not in a position)"
)
_LACK: Final = (
    r"(?:do not|don't|cannot|can't)\s+(?:currently |actually |really |personally )?"
    r"(?:have|possess)\s+(?:\w+\s+){0,3}?"
    r"(?:access|ability|abilities|capabilit\w+|opinions?|feelings?|preferences?|emotions?"
    r"|experiences?|beliefs?|favou?rites?|information|knowledge|body|senses|memories|"
    r"desires?|context|enough (?:information|context))"
)
_ACTS: Final = (
    r"(?:assist|help(?!\s+but)|provide|fulfil+|comply|complete|create|generate|write|answer|"
    r"respond|access|browse|perform|offer|give you|support|engage|participate|discuss|"
    r"produce|display|draw|show you|determine|predict|recommend|translate|summari[sz]e|"
    r"understand your|process|execute|share)"
)
_DECLINE: Final = (
    rf"(?:i\s+{_CANNOT}\s+(?:\w+ly\s+)?{_ACTS}\b|i\s*{_UNABLE}\s+(?:to|of)\s+{_ACTS}|i\s+{_LACK}\b"
    rf"|i\s+(?:must|have to)\s+(?:\w+ly\s+)?(?:decline|refuse)\b"
    r"|i\s+(?:do not|don't) feel comfortable)"
)
# With an apology, or as an AI, any verb declines: "Sorry, as an AI language model, I cannot see".
_DECLINE_AS_AI: Final = (
    rf"i\s*(?:{_CANNOT}|{_UNABLE}|won't|will not|do not|don't|have no|am unlikely)\b"
)
_TASK: Final = (
    r"(?:sorry,?\s+)?(?:this|the|your)\s+(?:task|instruction|request|query|prompt)\s+"
    r"(?:cannot|can't|can not|requires a? ?visual|involves (?:creating )?a?n? ?visual)"
)
_MARKER: Final = r"<\s*no\s?output\s*>"

_REFUSAL: Final = re.compile(
    rf"(?:{_MARKER}|{_TASK}"
    rf"|(?:{_SORRY}|{_UNFORTUNATELY})?{_AI}{_DECLINE_AS_AI}"
    rf"|(?:{_SORRY}|{_UNFORTUNATELY})?{_DECLINE})"
)
# What goes on to answer after all is none: "..., I do not eat. However, here is a recipe: ..."
_TURN: Final = re.compile(
    r"\b(?:however|but|here(?:'s| is| are)|instead|nonetheless|nevertheless|that said|generally"
    r"|in general|i can|as for)\b"
)
_ANSWER_WORDS: Final = 30
# How every refusal begins; most answers do not, and are done here.
_FIRST: Final = re.compile(
    r"[\s(\[*_]*(?:i\b|sor|apolog|unf|reg|sad|as\b|bec|sin|giv|an?\b|th|your|just|only|mer|<)", re.I
)
_QUOTES: Final = str.maketrans({"\N{RIGHT SINGLE QUOTATION MARK}": "'", "`": "'"})


def is_refusal(text: str) -> bool:
    """Tell whether an answer begins by declining to answer, in English, and leaves it at that.

    One that turns ("however", "but here is ...") and then says 30 words or more is an answer.
    """
    if _FIRST.match(text) is None:
        return False
    whole = " ".join(text.split()).casefold().translate(_QUOTES).lstrip("([*_ ")
    match = _REFUSAL.match(whole[:_HEAD])
    if match is None:
        return False
    turn = _TURN.search(whole, match.end())
    return turn is None or len(whole[turn.end() :].split()) < _ANSWER_WORDS
