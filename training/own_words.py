"""Did the model that is to be trained write the pairs? Only then do they buffer (paper, 3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from delia_data.models import identify_files
from delia_data.training.prepare import prepared_from

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_DTYPES: Final = ("bfloat16", "float32", "float16")
"""Types in which a sampling engine may have held the weights; the default comes first."""


class OwnWordsWarning(UserWarning):
    """Pairs were written by another model than the one that is trained on them."""


def foreign_writers(
    written_by: Mapping[str, Any], model: str, tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    """Say of each cache that another model wrote it, and how that is known.

    Args:
        written_by: What the mixture says of its writers, by the cache's name.
        model: The model to be trained: the embedded model's name, a folder, or a Hub id.
        tokenizer: Its tokenizer.

    Returns:
        A line for each cache that another model wrote, or one with another chat template. Of a
        model behind an API nothing but its name can be compared.
    """
    if not written_by:
        return []
    own = _Own(model, tokenizer)
    return [line for cache, writer in written_by.items() for line in _foreign(cache, writer, own)]


class _Own:
    """The model to be trained; its weights are hashed when something is compared with them."""

    def __init__(self, model: str, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.known: list[dict[str, str]] = []

    def identities(self) -> Iterator[dict[str, str]]:
        """Identities in one type after another; of a prepared model, what it was before."""
        if (origin := prepared_from(self.model)) is not None:
            yield origin
            return
        for number, dtype in enumerate(_DTYPES):
            if number == len(self.known):
                self.known.append(identify_files(self.model, self.tokenizer, dtype=dtype))
            yield self.known[number]


def _foreign(cache: str, writer: Any, own: _Own) -> Iterator[str]:
    name = writer if isinstance(writer, str) else str(writer.get("name"))
    first = next(own.identities())
    told = f"the {cache}'s pairs were written by {name}, and {first['name']} is trained on them"
    advice = "they are not its own words, and buffer nothing: sample pairs from the trained model"
    if isinstance(writer, str) or "weights_sha256" not in writer:
        if _last(name) != _last(first["name"]):
            yield f"{told}: {advice}"
        return
    if all(writer["weights_sha256"] != own["weights_sha256"] for own in own.identities()):
        yield f"{told} (weights {writer['weights_sha256'][:12]} there): {advice}"
    elif writer.get("chat_template_sha256") != first["chat_template_sha256"]:
        yield (
            f"the {cache}'s pairs were sampled through another chat template than that of "
            f"{first['name']}: sample them again, or train with the template they were sampled with"
        )


def _last(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1].casefold()
