"""The engine over `transformers`: the embedded default model, or any other, on CPU or GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from delia_data._batches import batches
from delia_data._optional import require
from delia_data.engines._decoding import Decoding, Row, can_decode
from delia_data.engines._draws import draw, pick
from delia_data.engines._prompts import completed, end_ids, prompt_ids
from delia_data.engines.base import (
    FREE,
    Completion,
    Finish,
    Prices,
    Request,
    RequestStream,
    Sampling,
)
from delia_data.errors import EngineError, InputError
from delia_data.models import identify, load_model, load_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_ADMITTED: Final = 8  # this part of the batch must be free before others are taken in


class TransformersEngine:
    """Generates in a batch in which the next prompt takes the place of a finished answer.

    Models whose cache is not plain, or whose own settings alter scores, are asked in whole batches
    of prompts of similar length.

    Each row draws from numbers of its own, which follow from its seed and the position of the
    token, so that the batch a row falls into does not change what it draws. (What the model
    computes may still differ in the last bits from batch to batch, in bfloat16 above all.)
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
            tokenizer: Its tokenizer, with a chat template.
            batch_size: Answers that are written together.
            window: Batches' worth of requests that are taken at a time and sorted by length.

        The attribute `on_part` can be set to a function; it is called at every token with the
        part of the running batch that is done, in requests.
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
        """Load a model by its name, folder or Hub id, and wrap it."""
        loaded = load_model(model, device=device)
        return cls(loaded, load_tokenizer(model), batch_size=batch_size)

    def describe(self) -> dict[str, Any]:
        """Name the engine and identify the model; the weights are hashed on the first call."""
        if self._identity is None:
            self._identity = identify(self.model, self.tokenizer)
        return {"engine": "transformers", "model": self._identity}

    def generate(
        self, requests: Iterable[Request | None], sampling: Sampling
    ) -> Iterator[Completion]:
        """Answer every request once, each as soon as it is finished where the model allows it."""
        stream = RequestStream(requests)
        if can_decode(self.model):
            yield from self._generate_freely(stream, sampling)
            return
        while not stream.ended:
            for batch in batches(self._window(stream), self.batch_size):
                yield from self._generate_batch(batch, sampling)

    def close(self) -> None:
        """Nothing is held but memory, which goes with the object."""

    def _window(self, stream: RequestStream) -> list[Row]:
        """Take requests, and sort them by the lengths of their prompts."""
        taken = stream.take(self.batch_size * self.window)
        rows = [Row(request, prompt_ids(self.tokenizer, request)) for request in taken]
        return sorted(rows, key=lambda row: len(row.prompt))

    def _generate_freely(self, stream: RequestStream, sampling: Sampling) -> Iterator[Completion]:
        """Generate with a batch whose rows come and go."""
        ends = end_ids(self.tokenizer, self.model.generation_config)
        pad = self.tokenizer.pad_token_id
        decoding = Decoding(self.model, sampling, ends=ends, pad=pad)
        waiting: list[Row] = []
        while True:
            waiting = waiting or self._window(stream)
            free = self.batch_size - decoding.alive
            done: list[Row] = []
            with self._foreign_errors():
                if waiting and free * _ADMITTED >= self.batch_size:
                    done = decoding.admit(waiting[:free])
                    waiting = waiting[free:]
                elif decoding.alive:
                    done = decoding.step()
                elif stream.ended:
                    return
            self.on_part(decoding.written / sampling.max_tokens)
            for row in done:
                assert row.finish is not None
                ids = len(row.prompt)
                yield completed(row.request, self.tokenizer, row.answer, row.finish, ids)

    def _generate_batch(self, batch: Sequence[Row], sampling: Sampling) -> list[Completion]:
        """Generate with the model's own `generate`, which heeds all its settings."""
        torch = require("torch", extra="local")
        pad = self.tokenizer.pad_token_id
        prompts = [row.prompt for row in batch]
        width = max(map(len, prompts))
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        processors: list[_Ticker | _RowPicker] = [
            _Ticker(self.on_part, width, len(batch) / sampling.max_tokens)
        ]
        if sampling.temperature > 0:
            processors.append(_RowPicker([row.request.seed for row in batch], width, sampling))
        with torch.inference_mode(), self._foreign_errors():
            output = self.model.generate(
                input_ids=ids.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                do_sample=False,
                max_new_tokens=sampling.max_tokens,
                pad_token_id=pad,
                logits_processor=processors,
            )
        answers = output[:, width:].tolist()
        return [self._complete(row, answer) for row, answer in zip(batch, answers, strict=True)]

    def _complete(self, row: Row, answer: list[int]) -> Completion:
        ends = end_ids(self.tokenizer, self.model.generation_config)
        stop = next((i for i, token in enumerate(answer) if token in ends), None)
        kept = answer if stop is None else answer[: stop + 1]
        finish: Finish = "length" if stop is None else "stop"
        return completed(row.request, self.tokenizer, kept, finish, len(row.prompt))

    @contextmanager
    def _foreign_errors(self) -> Iterator[None]:
        """Say what to do where a batch is too large for the device."""
        torch = require("torch", extra="local")
        try:
            yield
        except torch.cuda.OutOfMemoryError as error:
            raise EngineError(
                f"a batch of {self.batch_size} prompts does not fit into the device's memory: "
                "lower the batch size"
            ) from error


class _Ticker:
    """A logits processor that changes nothing, and tells how far a batch is."""

    def __init__(self, on_part: Callable[[float], None], width: int, per_token: float) -> None:
        self.on_part = on_part
        self.width = width
        self.per_token = per_token

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Tell how many requests' worth of tokens are there; the scores stay as they are."""
        self.on_part((input_ids.shape[1] - self.width) * self.per_token)
        return scores


class _RowPicker:
    """A logits processor that draws each row's next token with a number of the row's own.

    Every token but the one that was drawn is ruled out.
    """

    def __init__(self, seeds: Sequence[int], prompt_width: int, sampling: Sampling) -> None:
        self.seeds = seeds
        self.prompt_width = prompt_width
        self.sampling = sampling

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Map scores of shape (rows, vocabulary) to scores that leave one token a row."""
        import torch

        step = input_ids.shape[1] - self.prompt_width
        draws = [draw(seed, step) for seed in self.seeds]
        picked = pick(scores, draws, self.sampling.temperature, self.sampling.top_p)
        return torch.full_like(scores, float("-inf")).scatter_(1, picked, 0.0)
