"""The engine over a Ray cluster: Ray Data's LLM processor, with vLLM in every replica.

    requests ──▶ window ──▶ dataset ──▶ replicas, anywhere ──▶ completions
                    ▲                                              │
                    └─────────── when all of it is done ◀──────────┘

Each replica is one vLLM engine that is kept full from its share of the window. What a lost worker
had is asked again elsewhere by Ray; that a row comes back once is seen to here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from delia_data._optional import require
from delia_data.engines._prompts import completed, failed, load_end_ids, prompt_ids
from delia_data.engines._ray_processor import RaySettings, make_processor
from delia_data.engines._vllm_picker import too_long
from delia_data.engines.base import (
    FREE,
    Completion,
    Finish,
    Prices,
    Request,
    RequestStream,
    Sampling,
)
from delia_data.mixing.cluster_connection import connected
from delia_data.models import identify_files, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class RayEngine:
    """Many vLLM engines on a cluster, fed window by window."""

    prices: Prices | None = FREE
    writes_users = True

    def __init__(
        self, name: str, tokenizer: PreTrainedTokenizerBase, settings: RaySettings
    ) -> None:
        """Prepare to use a cluster; it is connected to while it generates.

        Args:
            name: The model's name, folder or Hub id; every node must find it.
            tokenizer: The model's tokenizer, with a chat template.
            settings: How the cluster is used.
        """
        self.name = name
        self.tokenizer = tokenizer
        self.settings = settings
        self._ends = load_end_ids(name, tokenizer)
        self._identity: dict[str, str] | None = None

    @classmethod
    def load(
        cls,
        model: str,
        *,
        address: str | None = None,
        replicas: int = 1,
        device: Literal["auto", "cpu", "gpu"] = "auto",
        cpus: int = 1,
        batch_size: int = 16,
        batches: int = 16,
        window: int = 8192,
        dtype: str = "bfloat16",
        max_model_len: int | None = None,
        kv_cache_gib: float = 4.0,
        engine_kwargs: Mapping[str, Any] | None = None,
    ) -> RayEngine:
        """Prepare to use a cluster with a model; `RaySettings` says what the options mean.

        Raises:
            InputError: There is no such model, or a setting is wrong.
            MissingExtraError: Ray or vLLM is not installed.
        """
        require("ray.data", extra="ray")
        settings = RaySettings(
            address=address,
            replicas=replicas,
            device=device,
            cpus=cpus,
            batch_size=batch_size,
            batches=batches,
            window=window,
            dtype=dtype,
            max_model_len=max_model_len,
            kv_cache_gib=kv_cache_gib,
            engine_kwargs=dict(engine_kwargs or {}),
        )
        return cls(model, load_tokenizer(model), settings)

    def describe(self) -> dict[str, Any]:
        """Name the engine and identify the model; the weights are hashed on the first call."""
        if self._identity is None:
            self._identity = identify_files(self.name, self.tokenizer, dtype=self.settings.dtype)
        return {"engine": "ray", "model": self._identity}

    def generate(
        self, requests: Iterable[Request | None], sampling: Sampling
    ) -> Iterator[Completion]:
        """Answer every request once, window by window, each batch as it is finished."""
        stream = RequestStream(requests)
        with connected(self.settings.address):
            while not stream.ended:
                asked: dict[int, tuple[Request, list[int]]] = {}
                for number, request in enumerate(stream.take(self.settings.window)):
                    ids, most = prompt_ids(self.tokenizer, request), self.settings.max_model_len
                    if most is not None and len(ids) >= most:
                        yield failed(request, too_long(len(ids), most), len(ids))
                    else:
                        asked[number] = request, ids
                if asked:
                    yield from self._answer(asked, sampling)

    def close(self) -> None:
        """Nothing is held between two runs: replicas end with their window."""

    def _answer(
        self, asked: dict[int, tuple[Request, list[int]]], sampling: Sampling
    ) -> Iterator[Completion]:
        """Answer a window; a row that comes twice counts once."""
        rows = [
            {"number": number, "ids": ids, "seed": request.seed}
            for number, (request, ids) in asked.items()
        ]
        blocks = -(-len(rows) // self.settings.batch_size)
        dataset = require("ray.data", extra="ray").from_items(rows, override_num_blocks=blocks)
        end = int(self.tokenizer.convert_tokens_to_ids(str(self.tokenizer.eos_token)))
        answer = make_processor(self.name, self.settings, sampling, end, blocks)
        for row in answer(dataset).iter_rows():
            if (known := asked.pop(int(row["number"]), None)) is not None:
                yield self._complete(*known, row)
        for request, ids in asked.values():
            yield failed(request, "the cluster gave no answer: ask again", len(ids))

    def _complete(self, request: Request, ids: list[int], row: Mapping[str, Any]) -> Completion:
        if row["__inference_error__"]:
            return failed(request, f"vLLM failed: {row['__inference_error__']}", len(ids))
        generated = [int(token) for token in row["generated_tokens"]]
        ended = bool(generated) and generated[-1] in self._ends
        finish: Finish = "stop" if ended else "length"
        return completed(request, self.tokenizer, generated, finish, len(ids))
