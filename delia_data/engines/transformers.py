"""The engine for `transformers`: the embedded default model or any other, on a CPU or GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from delia_data._batches import batches
from delia_data._optional import require
from delia_data.engines.base import FREE, Completion, Prices, Request, RequestStream, Sampling
from delia_data.engines.decoding import Batch, Row, is_supported, pad_left
from delia_data.engines.local import (
    decode_completion,
    encode_prompt,
    end_token_ids,
    sample_tokens,
    uniform_number,
)
from delia_data.errors import EngineError, InputError
from delia_data.models import identify, load_model, load_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_ADMIT_SHARE: Final = 8  # one place in so many must be free before rows are admitted


class TransformersEngine:
    """Generates in a batch in which the next prompt takes the place of a finished answer.

    Models with a special cache or with special generation settings run in whole batches of prompts
    of similar length.

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
    def load(cls, model: str, *, device: str = "cpu", batch_size: int = 32) -> TransformersEngine:
        """Load a model by its name, folder, or Hub id, and wrap it."""
        loaded = load_model(model, device=device)
        return cls(loaded, load_tokenizer(model), batch_size=batch_size)

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
        if is_supported(self.model):
            yield from self._generate_continuously(stream, sampling)
            return
        while not stream.ended:
            for batch in batches(self._take_window(stream), self.batch_size):
                yield from self._generate_batch(batch, sampling)

    def close(self) -> None:
        """Do nothing: memory is freed with the object."""

    def _take_window(self, stream: RequestStream) -> list[Row]:
        """Take requests, sorted by the lengths of their prompts."""
        taken = stream.take(self.batch_size * self.window)
        rows = [Row(request, encode_prompt(self.tokenizer, request)) for request in taken]
        return sorted(rows, key=lambda row: len(row.prompt))

    def _generate_continuously(
        self, stream: RequestStream, sampling: Sampling
    ) -> Iterator[Completion]:
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
            for row in finished:
                yield self._complete(row)

    def _generate_batch(
        self, batch: Sequence[Row], sampling: Sampling, **options: Any
    ) -> list[Completion]:
        """Generate with the model's own `generate`, which applies all its settings."""
        torch = require("torch", extra="local")
        ends = end_token_ids(self.tokenizer, self.model.generation_config)
        ids, mask = self._pad([row.prompt for row in batch])
        width = ids.shape[1]
        processors: list[_ProgressReporter | _RowSampler] = [
            _ProgressReporter(self.on_part, width, len(batch) / sampling.max_tokens)
        ]
        if sampling.temperature > 0:
            processors.append(_RowSampler([row.request.seed for row in batch], width, sampling))
        with torch.inference_mode(), self._translate_errors():
            output = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=sampling.max_tokens,
                pad_token_id=self.tokenizer.pad_token_id,
                logits_processor=processors,
                **options,
            )
        for row, answer in zip(batch, output[:, width:].tolist(), strict=True):
            end = next((i for i, token in enumerate(answer) if token in ends), None)
            row.answer = answer if end is None else answer[: end + 1]
            row.finish = "length" if end is None else "stop"
        return [self._complete(row) for row in batch]

    def _pad(self, prompts: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        return pad_left(prompts, self.tokenizer.pad_token_id, self.model.device)

    def _complete(self, row: Row) -> Completion:
        assert row.finish is not None
        prompt = len(row.prompt)
        return decode_completion(row.request, self.tokenizer, row.answer, row.finish, prompt)

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


class _ProgressReporter:
    """A logits processor that changes nothing and reports the progress of a batch."""

    def __init__(self, on_part: Callable[[float], None], width: int, per_token: float) -> None:
        self.on_part = on_part
        self.width = width
        self.per_token = per_token

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Report the generated tokens in requests, and return the scores unchanged."""
        self.on_part((input_ids.shape[1] - self.width) * self.per_token)
        return scores


class _RowSampler:
    """A logits processor that samples each row's next token with a number of the row's own.

    It rules out all other tokens.
    """

    def __init__(self, seeds: Sequence[int], prompt_width: int, sampling: Sampling) -> None:
        self.seeds = seeds
        self.prompt_width = prompt_width
        self.sampling = sampling

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores of shape (rows, vocabulary) that leave one token per row."""
        import torch

        position = input_ids.shape[1] - self.prompt_width
        numbers = [uniform_number(seed, position) for seed in self.seeds]
        sampled = sample_tokens(scores, numbers, self.sampling.temperature, self.sampling.top_p)
        return torch.full_like(scores, float("-inf")).scatter_(1, sampled, 0.0)
