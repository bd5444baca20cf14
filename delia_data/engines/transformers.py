"""The engine for `transformers`: the embedded default model or any other, on a CPU or GPU.

Batching is continuous: a finished answer makes room for the next prompt.

    rows    a a a a a a .           row a is finished: c takes its place, and the cached
            b b b b b b b b b b     keys and values of all rows are aligned on the right
            . . . . . . c c c c     (shorter rows are padded on the left)

Tokens with which all prompts begin, such as a system prompt, are computed once.

`generate` of transformers computes a batch until its longest answer is finished, which is most of
the work when answers differ in length. Models with a special cache or with special generation
settings still use it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

from delia_data._batches import batches
from delia_data._optional import require
from delia_data.engines.base import (
    FREE,
    Completion,
    Finish,
    Prices,
    Request,
    RequestStream,
    Sampling,
)
from delia_data.engines.local import (
    decode_completion,
    encode_prompt,
    end_token_ids,
    generation_limit,
    sample_tokens,
    uniform_number,
)
from delia_data.errors import EngineError, InputError
from delia_data.models import identify, load_model, load_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_ADMIT_SHARE: Final = 8  # one place in 8 must be free before rows are admitted
# Generation settings that `generate` applies and `Batch` does not, and their neutral values.
_UNSUPPORTED: Final = {
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
_COMPACT_SHARE: Final = 8  # one row in 8 must be finished before the rest is compacted
_PREFIX_TOKENS: Final = 16  # a shorter common prefix is not worth a pass of its own
_ATTENTION: Final = "delia_data_grouped"


def is_supported(model: PreTrainedModel) -> bool:
    """Whether `Batch` supports a model: a plain cache, and no special generation settings."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    config, settings = model.config, model.generation_config
    if config.is_encoder_decoder or config.get_text_config() is not config:
        return False
    if not {"position_ids", "logits_to_keep"} <= set(inspect.signature(model.forward).parameters):
        return False
    values = ((getattr(settings, name, None), neutral) for name, neutral in _UNSUPPORTED.items())
    if any(value not in (None, neutral) for value, neutral in values):
        return False
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)


@dataclass(slots=True)
class Row:
    """One answer in progress.

    Attributes:
        request: The request.
        prompt: Token ids of the prompt.
        answer: Token ids so far, including the end token.
        finish: How the answer ended; None while it is in progress.
    """

    request: Request
    prompt: list[int]
    answer: list[int] = field(default_factory=list)
    finish: Finish | None = None


def pad_left(
    prompts: Sequence[list[int]], pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and attention mask of prompts, padded at the left: shape (prompts, longest)."""
    import torch

    width = max(map(len, prompts))
    padding = [width - len(prompt) for prompt in prompts]
    ids = [[pad] * n + prompt for n, prompt in zip(padding, prompts, strict=True)]
    mask = [[0] * n + [1] * (width - n) for n in padding]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


class Batch:
    """A batch whose rows come and go.

    Attributes:
        active: Number of answers in progress.
    """

    def __init__(
        self, model: PreTrainedModel, sampling: Sampling, *, ends: Collection[int], pad: int
    ) -> None:
        """Start without rows; `ends` are the ids that end an answer, the model `is_supported`."""
        self.active = 0
        self._model = model
        self._sampling = sampling
        self._ends = ends
        self._pad = pad
        self._rows: list[Row] = []
        self._cache: Any = None
        self._prefix: list[int] = []  # tokens that prompts begin with, and their keys and values
        self._prefix_cache: Any = None
        # transformers 5.24 renames the argument, model by model.
        parameters = inspect.signature(model.forward).parameters
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"
        self._mask: torch.Tensor  # shape (rows, tokens so far), 0 for padding
        self._last: torch.Tensor  # shape (rows, 1), the latest tokens

    @property
    def tokens(self) -> int:
        """Number of tokens in the answers in progress."""
        return sum(len(row.answer) for row in self._rows if row.finish is None)

    def admit(self, rows: Sequence[Row]) -> list[Row]:
        """Add rows and sample the first token of each; return those that are finished."""
        import torch

        cache, length = self._begin([row.prompt for row in rows])
        ids, mask = pad_left([row.prompt[length:] for row in rows], self._pad, self._model.device)
        if length:
            mask = torch.cat([mask.new_ones(len(rows), length), mask], dim=1)
        logits = self._forward(ids, mask, cache)
        self._compact()
        first, finished = self._sample(rows, logits)
        self._append(rows, cache, mask, first)
        return finished

    def step(self) -> list[Row]:
        """Sample the next token of every answer; return those that are finished."""
        import torch

        if (len(self._rows) - self.active) * _COMPACT_SHARE >= len(self._rows):
            self._compact()
        self._mask = torch.cat([self._mask, torch.ones_like(self._last)], dim=1)
        logits = self._forward(self._last, self._mask, self._cache)
        self._last, finished = self._sample(self._rows, logits)
        self.active -= len(finished)
        return finished

    def _begin(self, prompts: Sequence[list[int]]) -> tuple[Any, int]:
        """Return a cache with the tokens that all prompts begin with, and their number."""
        import torch
        from transformers import DynamicCache

        # The last token of a prompt is not part of it: its logits are needed.
        places = zip(*(prompt[:-1] for prompt in prompts), strict=False)
        shared = [ids[0] for ids in takewhile(lambda ids: len(set(ids)) == 1, places)]
        fits = shared[: len(self._prefix)] == self._prefix
        missing = len(shared) - (len(self._prefix) if fits else 0)
        if len(prompts) > 1 and missing >= _PREFIX_TOKENS:
            ids = torch.tensor([shared], device=self._model.device)
            self._prefix, self._prefix_cache = shared, DynamicCache(config=self._model.config)
            self._forward(ids, torch.ones_like(ids), self._prefix_cache)
            fits = True
        cache = DynamicCache(config=self._model.config)
        if not (fits and self._prefix):
            return cache, 0
        for number, layer in enumerate(self._prefix_cache.layers):
            shape = (len(prompts), -1, -1, -1)
            cache.update(layer.keys.expand(shape), layer.values.expand(shape), number)
        return cache, len(self._prefix)

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, cache: Any) -> torch.Tensor:
        """Return the next-token logits, shape (rows, vocabulary), after ids (rows, tokens)."""
        import torch

        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        with torch.inference_mode(), fast_attention(self._model):
            output = self._model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                use_cache=True,
                logits_to_keep=1,
                **{self._cache_name: cache},
            )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _sample(self, rows: Sequence[Row], logits: torch.Tensor) -> tuple[torch.Tensor, list[Row]]:
        """Return the next token of each row, shape (rows, 1), and the rows that finish with it."""
        sampling = self._sampling
        if sampling.temperature == 0:
            tokens = logits.argmax(-1, keepdim=True)
        else:
            numbers = [uniform_number(row.request.seed, len(row.answer)) for row in rows]
            tokens = sample_tokens(logits, numbers, sampling.temperature, sampling.top_p)
        finished = []
        for row, token in zip(rows, tokens.squeeze(1).tolist(), strict=True):
            if row.finish is not None:
                continue
            row.answer.append(token)
            if token in self._ends:
                row.finish = "stop"
            elif len(row.answer) == row.request.limit(sampling):
                row.finish = "length"
            if row.finish is not None:
                finished.append(row)
        return tokens, finished

    def _compact(self) -> None:
        """Remove finished rows, and padding that all other rows have."""
        import torch

        keep = [i for i, row in enumerate(self._rows) if row.finish is None]
        if len(keep) == len(self._rows):
            return
        self._rows = [self._rows[i] for i in keep]
        if not keep:
            self._cache = None
            return
        index = torch.tensor(keep, device=self._mask.device)
        mask = self._mask.index_select(0, index)
        start = int(mask.any(0).int().argmax())
        self._mask, self._last = mask[:, start:], self._last.index_select(0, index)
        for layer in self._cache.layers:
            layer.keys = layer.keys[:, :, start:].index_select(0, index)
            layer.values = layer.values[:, :, start:].index_select(0, index)

    def _append(
        self, rows: Sequence[Row], cache: Any, mask: torch.Tensor, first: torch.Tensor
    ) -> None:
        """Append rows with their cache, mask, and first tokens to those in the batch."""
        import torch
        from torch.nn.functional import pad

        self.active += sum(row.finish is None for row in rows)
        if self._cache is None:
            self._rows, self._cache, self._mask, self._last = list(rows), cache, mask, first
            return
        width = max(mask.shape[1], self._mask.shape[1])

        def stack(*parts: torch.Tensor) -> torch.Tensor:
            return torch.cat([pad(part, (0, 0, width - part.shape[2], 0)) for part in parts])

        for old, new in zip(self._cache.layers, cache.layers, strict=True):
            old.keys, old.values = stack(old.keys, new.keys), stack(old.values, new.values)
        masks = [pad(part, (width - part.shape[1], 0)) for part in (self._mask, mask)]
        self._rows = [*self._rows, *rows]
        self._mask, self._last = torch.cat(masks), torch.cat([self._last, first])


@contextmanager
def fast_attention(model: PreTrainedModel) -> Iterator[None]:
    """Replace PyTorch's attention of a model on a CPU for one new token per row.

    PyTorch's fused kernel parallelizes over query tokens, of which there is only one. For 32 rows
    of SmolLM2-135M with 200 tokens it takes 4.5 ms per layer in bfloat16, and 6.8 ms as
    transformers calls it, with a copy of the keys for each query head that shares them. Two matrix
    products take 1.0 ms. Rounding is that of the "eager" attention of transformers.
    """
    config = model.config
    if model.device.type != "cpu" or config._attn_implementation != "sdpa":
        yield
        return
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(_ATTENTION, _attend)
    AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
    config._attn_implementation = _ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention for queries of shape (rows, heads, tokens, size).

    Queries of one token are grouped by the key head that they share. All others go to PyTorch.
    """
    rows, heads, tokens, size = query.shape
    if tokens > 1 or options.get("position_bias") is not None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
    grouped = query.reshape(rows, key.shape[1], heads // key.shape[1], size)
    scores = (grouped @ key.transpose(2, 3)).float() * (scaling or size**-0.5)
    if attention_mask is not None:
        if attention_mask.dtype.is_floating_point:
            scores += attention_mask
        else:
            scores.masked_fill_(~attention_mask, float("-inf"))
    attended = scores.softmax(-1).to(value.dtype) @ value
    return attended.reshape(rows, 1, heads, value.shape[-1]), None


class TransformersEngine:
    """Generates answers in batches.

    Each row samples with numbers that follow from its seed and the token's position, so the batch
    does not change which numbers a row gets. (The logits may still differ in the last bits from
    batch to batch, above all in bfloat16.)
    """

    prices: Prices | None = FREE
    writes_users = True

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 32,
        window: int = 8,
    ) -> None:
        """Wrap a loaded model.

        Args:
            model: The model, on its device.
            tokenizer: The model's tokenizer, with a chat template.
            batch_size: Number of answers to generate at a time.
            window: Number of batches to take requests for at a time; they are sorted by length.

        The attribute `on_part` may be set to a function. It is called at every token with the
        finished part of the running batch, in requests.
        """
        if batch_size < 1 or window < 1:
            raise InputError(f"batch_size {batch_size} and window {window} must be at least 1")
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.window = window
        self.on_part: Callable[[float], None] = lambda _: None
        self._identity: dict[str, str] | None = None

    @classmethod
    def load(
        cls,
        model: str,
        *,
        device: str = "cpu",
        batch_size: int = 32,
        template_options: Mapping[str, Any] | None = None,
    ) -> TransformersEngine:
        """Load a model by its name, folder, or Hub id, and wrap it."""
        tokenizer = load_tokenizer(model, template_options)
        return cls(load_model(model, device=device), tokenizer, batch_size=batch_size)

    def describe(self) -> dict[str, Any]:
        """Name the engine and identify the model. The first call hashes the weights."""
        if self._identity is None:
            self._identity = identify(self.model, self.tokenizer)
        return {"engine": "transformers", "model": self._identity}

    def generate(
        self, requests: Iterable[Request | None], sampling: Sampling
    ) -> Iterator[Completion]:
        """Answer every request once, each as soon as it is finished if the model allows it."""
        stream = RequestStream(requests)
        limited = generation_limit(self.tokenizer, sampling)
        if is_supported(self.model):
            finished = self._generate_continuously(stream, limited)
        else:
            finished = self._generate_in_batches(stream, limited)
        for row in finished:
            assert row.finish is not None
            yield decode_completion(
                row.request, self.tokenizer, row.answer, row.finish, row.prompt, sampling
            )

    def close(self) -> None:
        """Do nothing: memory is freed with the object."""

    def _take_window(self, stream: RequestStream) -> list[Row]:
        """Take requests, sorted by the lengths of their prompts."""
        taken = stream.take(self.batch_size * self.window)
        rows = [Row(request, encode_prompt(self.tokenizer, request)) for request in taken]
        return sorted(rows, key=lambda row: len(row.prompt))

    def _generate_continuously(self, stream: RequestStream, sampling: Sampling) -> Iterator[Row]:
        """Generate with a batch whose rows come and go."""
        ends = end_token_ids(self.tokenizer, self.model.generation_config)
        batch = Batch(self.model, sampling, ends=ends, pad=self.tokenizer.pad_token_id)
        waiting: list[Row] = []
        while True:
            waiting = waiting or self._take_window(stream)
            free = self.batch_size - batch.active
            finished: list[Row] = []
            with self._translate_errors():
                if waiting and free * _ADMIT_SHARE >= self.batch_size:
                    finished = batch.admit(waiting[:free])
                    waiting = waiting[free:]
                elif batch.active:
                    finished = batch.step()
                elif stream.ended:
                    return
            self.on_part(batch.tokens / sampling.max_tokens)
            yield from finished

    def _generate_in_batches(self, stream: RequestStream, sampling: Sampling) -> Iterator[Row]:
        while not stream.ended:
            for batch in batches(self._take_window(stream), self.batch_size):
                yield from self._generate_batch(batch, sampling)

    def _generate_batch(
        self, batch: Sequence[Row], sampling: Sampling, **options: Any
    ) -> Sequence[Row]:
        """Generate with the model's own `generate`, which applies all its settings."""
        torch = require("torch", extra="local")
        ends = end_token_ids(self.tokenizer, self.model.generation_config)
        ids, mask = self._pad([row.prompt for row in batch])
        width = ids.shape[1]
        limits = [row.request.limit(sampling) for row in batch]

        def keep_sampled(tokens: Any, scores: Any) -> Any:
            """Report the progress, and rule out all tokens but the one that each row samples."""
            position = tokens.shape[1] - width
            self.on_part(position * len(batch) / max(limits))
            if sampling.temperature == 0:
                return scores
            numbers = [uniform_number(row.request.seed, position) for row in batch]
            sampled = sample_tokens(scores, numbers, sampling.temperature, sampling.top_p)
            return torch.full_like(scores, float("-inf")).scatter_(1, sampled, 0.0)

        with torch.inference_mode(), self._translate_errors():
            output = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=max(limits),
                pad_token_id=self.tokenizer.pad_token_id,
                logits_processor=[keep_sampled],
                **options,
            )
        for row, limit, answer in zip(batch, limits, output[:, width:].tolist(), strict=True):
            end = next((i for i, token in enumerate(answer[:limit]) if token in ends), None)
            row.answer = answer[:limit] if end is None else answer[: end + 1]
            row.finish = "length" if end is None else "stop"
        return batch

    def _pad(self, prompts: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        return pad_left(prompts, self.tokenizer.pad_token_id, self.model.device)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Turn running out of memory into an `EngineError`."""
        torch = require("torch", extra="local")
        try:
            yield
        except torch.cuda.OutOfMemoryError as error:
            raise EngineError(
                f"a batch of {self.batch_size} prompts does not fit into the device's memory: "
                "lower the batch size"
            ) from error
