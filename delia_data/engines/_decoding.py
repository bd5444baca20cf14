"""Answers that are written side by side, a token each at a time: who is done makes room.

    rows    a a a a a a .           row a is done: its place goes to c, and the cached
            b b b b b b b b b b     keys and values of all rows are moved together
            . . . . . . c c c c     (shorter ones have a margin on the left)

`generate` of transformers computes a batch until its longest answer is done. Where answers differ
in length that is most of the work.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from delia_data.engines._attention import quick_attention
from delia_data.engines._draws import draw, pick
from delia_data.engines.base import Finish, Request, Sampling

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# What a model's own settings may ask of `generate` that is not done here.
_ALTERING: Final = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "sequence_bias": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "min_length": 0,
    "min_new_tokens": None,
    "guidance_scale": None,
    "watermarking_config": None,
}
_SHARE: Final = 8  # of the rows must be done before the others move together


def can_decode(model: PreTrainedModel) -> bool:
    """Whether a model can be used here: its cache is plain, and it asks for nothing special."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    config, settings = model.config, model.generation_config
    if config.is_encoder_decoder or config.get_text_config() is not config:
        return False
    if not {"position_ids", "logits_to_keep"} <= set(inspect.signature(model.forward).parameters):
        return False
    if any(getattr(settings, name, None) not in (None, usual) for name, usual in _ALTERING.items()):
        return False
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)


@dataclass(slots=True)
class Row:
    """One answer that is being written.

    Attributes:
        request: What was asked.
        prompt: Ids of the prompt.
        answer: Ids so far, the end mark included.
        finish: How it ended; None while it has not.
    """

    request: Request
    prompt: list[int]
    answer: list[int] = field(default_factory=list)
    finish: Finish | None = None


class Decoding:
    """A batch whose rows come and go.

    Attributes:
        alive: How many answers are being written.
    """

    def __init__(
        self, model: PreTrainedModel, sampling: Sampling, *, ends: Collection[int], pad: int
    ) -> None:
        """Begin without rows.

        Args:
            model: The model, of which `can_decode` is true.
            sampling: How answers are drawn.
            ends: Ids that end an answer.
            pad: Id that fills margins.
        """
        self.alive = 0
        self._model = model
        self._sampling = sampling
        self._ends = ends
        self._pad = pad
        self._rows: list[Row] = []
        self._cache: Any = None
        self._mask: torch.Tensor  # shape (rows, tokens so far), 0 where there is a margin
        self._last: torch.Tensor  # shape (rows, 1), the tokens that were picked last

    @property
    def written(self) -> int:
        """Tokens of the answers that are being written."""
        return sum(len(row.answer) for row in self._rows if row.finish is None)

    def admit(self, rows: Sequence[Row]) -> list[Row]:
        """Take rows in, and write the first token of each; give those that are done with it."""
        import torch
        from transformers import DynamicCache

        width = max(len(row.prompt) for row in rows)
        margins = [width - len(row.prompt) for row in rows]
        place = {"device": self._model.device}
        prompts = [
            [self._pad] * margin + row.prompt for row, margin in zip(rows, margins, strict=True)
        ]
        mask = torch.tensor([[0] * margin + [1] * (width - margin) for margin in margins], **place)
        cache = DynamicCache(config=self._model.config)
        scores = self._forward(torch.tensor(prompts, **place), mask, cache)
        self._drop()
        first, done = self._picked(rows, scores)
        self._join(rows, cache, mask, first)
        return done

    def step(self) -> list[Row]:
        """Write the next token of every answer; give those that are done with it."""
        import torch

        if (len(self._rows) - self.alive) * _SHARE >= len(self._rows):
            self._drop()
        more = torch.ones_like(self._last)
        self._mask = torch.cat([self._mask, more], dim=1)
        scores = self._forward(self._last, self._mask, self._cache)
        self._last, done = self._picked(self._rows, scores)
        self.alive -= len(done)
        return done

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, cache: Any) -> torch.Tensor:
        """Compute the scores that follow ids of shape (rows, tokens); shape (rows, vocabulary)."""
        import torch

        places = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        with torch.inference_mode(), quick_attention(self._model):
            output = self._model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=places,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        scores: torch.Tensor = output.logits[:, -1]
        return scores

    def _picked(self, rows: Sequence[Row], scores: torch.Tensor) -> tuple[torch.Tensor, list[Row]]:
        """Pick the next token of each row; give them, shape (rows, 1), and the rows now done."""
        how = self._sampling
        if how.temperature == 0:
            tokens = scores.argmax(-1, keepdim=True)
        else:
            draws = [draw(row.request.seed, len(row.answer)) for row in rows]
            tokens = pick(scores, draws, how.temperature, how.top_p)
        done = []
        for row, token in zip(rows, tokens.squeeze(1).tolist(), strict=True):
            if row.finish is not None:
                continue
            row.answer.append(token)
            if token in self._ends:
                row.finish = "stop"
            elif len(row.answer) == how.max_tokens:
                row.finish = "length"
            if row.finish is not None:
                done.append(row)
        return tokens, done

    def _drop(self) -> None:
        """Let go of the rows that are done, and of margins that all others have."""
        import torch

        keep = [place for place, row in enumerate(self._rows) if row.finish is None]
        if len(keep) == len(self._rows):
            return
        self._rows = [self._rows[place] for place in keep]
        if not keep:
            self._cache = None
            return
        places = torch.tensor(keep, device=self._mask.device)
        mask = self._mask.index_select(0, places)
        begin = int(mask.any(0).int().argmax())
        self._mask, self._last = mask[:, begin:], self._last.index_select(0, places)
        for layer in self._cache.layers:
            layer.keys = layer.keys[:, :, begin:].index_select(0, places)
            layer.values = layer.values[:, :, begin:].index_select(0, places)

    def _join(
        self, rows: Sequence[Row], cache: Any, mask: torch.Tensor, first: torch.Tensor
    ) -> None:
        """Put new rows under those that are here."""
        import torch
        from torch.nn.functional import pad

        self.alive += sum(row.finish is None for row in rows)
        if self._cache is None:
            self._rows, self._cache, self._mask, self._last = list(rows), cache, mask, first
            return
        width = max(mask.shape[1], self._mask.shape[1])

        def stacked(*parts: torch.Tensor) -> torch.Tensor:
            return torch.cat([pad(part, (0, 0, width - part.shape[2], 0)) for part in parts])

        for old, new in zip(self._cache.layers, cache.layers, strict=True):
            old.keys, old.values = stacked(old.keys, new.keys), stacked(old.values, new.values)
        masks = [pad(part, (width - part.shape[1], 0)) for part in (self._mask, mask)]
        self._rows = [*self._rows, *rows]
        self._mask, self._last = torch.cat(masks), torch.cat([self._last, first])
