"""The engine for a Ray cluster: Ray Data's LLM processor, with vLLM in every replica.

    requests ──▶ window ──▶ dataset ──▶ replicas on any node ──▶ completions
                    ▲                                                │
                    └──────────── when all are done ◀────────────────┘

Each replica is one vLLM engine that stays full from its share of the window. Ray repeats the work
of a lost worker elsewhere; this module makes sure that each row comes back once. Prompts are
encoded before and answers decoded after the processor, by the same code as in the other engines.
"""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from delia_data._optional import require
from delia_data.engines.base import (
    FREE,
    Completion,
    Prices,
    Request,
    RequestStream,
    Sampling,
)
from delia_data.engines.local import (
    ROW_SAMPLER,
    decode_completion,
    encode_prompt,
    failed_completion,
    generation_limit,
    load_end_token_ids,
    prompt_too_long,
    sampling_arguments,
)
from delia_data.errors import EngineError, InputError
from delia_data.models import identify_files, load_tokenizer, resolve_model
from delia_data.outputs import Settings, setting

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CONNECT_S: Final = 10.0


@dataclass(frozen=True, kw_only=True)
class RayOptions(Settings):
    """Options of the engine `ray`.

    Raises:
        InputError: A value is out of range.
    """

    address: str | None = setting(
        None, "Address of the cluster. Default: a running cluster, or a new one on this machine."
    )
    replicas: int = setting(1, "Number of vLLM engines.", ge=1)
    device: Literal["auto", "cpu", "gpu"] = setting(
        "auto", 'Device of a replica; `"auto"` uses GPUs if the cluster has any.'
    )
    cpus: int = setting(1, "Number of CPUs of a replica that runs on CPUs.", ge=1)
    batch_size: int = setting(
        16, "Number of rows that are sent to a replica and come back together.", ge=1
    )
    batches: int = setting(16, "Number of batches that a replica works on at a time.", ge=1)
    window: int = setting(
        8192,
        "Number of requests to take at a time. Replicas restart with each window, so a small "
        "window costs time.",
        ge=1,
    )
    dtype: str = setting("bfloat16", "Type of the weights.")
    max_model_len: int | None = setting(
        None,
        "Maximum number of tokens in a prompt with its answer. Default: the model's own limit.",
    )
    kv_cache_gib: float = setting(4.0, "Memory for the KV cache of a replica on CPUs, in GiB.")
    engine_kwargs: Mapping[str, Any] = setting(dict, "Other arguments of vLLM's engine.")
    template_options: Mapping[str, Any] | None = setting(
        None, "Options for the model's chat template."
    )


class RayEngine:
    """Several vLLM engines on a cluster, fed window by window."""

    Options: ClassVar = RayOptions
    prices: Prices | None = FREE
    writes_users = True

    def __init__(
        self, name: str, tokenizer: PreTrainedTokenizerBase, options: RayOptions | None = None
    ) -> None:
        """Prepare the engine. It connects to the cluster only while it generates.

        Args:
            name: The model's name, folder, or Hub id; every node must find it.
            tokenizer: The model's tokenizer, with a chat template.
            options: Options of the cluster.
        """
        self.name = name
        self.tokenizer = tokenizer
        self.options = options or RayOptions()
        self._ends = load_end_token_ids(name, tokenizer)
        self._identity: dict[str, str] | None = None

    @classmethod
    def load(cls, model: str, **options: Any) -> RayEngine:
        """Return an engine with the given fields of `RayOptions`.

        Raises:
            InputError: The model does not exist, or an option is invalid.
            MissingExtraError: Ray or vLLM is not installed.
        """
        require("ray.data", extra="ray")
        checked = RayOptions(**options)
        return cls(model, load_tokenizer(model, checked.template_options), checked)

    def describe(self) -> dict[str, Any]:
        """Name the engine and identify the model. The first call hashes the weights."""
        if self._identity is None:
            self._identity = identify_files(self.name, self.tokenizer, dtype=self.options.dtype)
        return {"engine": "ray", "model": self._identity}

    def generate(
        self, requests: Iterable[Request | None], sampling: Sampling
    ) -> Iterator[Completion]:
        """Answer every request once, window by window, each batch as it is finished."""
        stream = RequestStream(requests)
        limit = self.options.max_model_len
        with _connected(self.options.address):
            while not stream.ended:
                pending: dict[int, tuple[Request, list[int]]] = {}
                for number, request in enumerate(stream.take(self.options.window)):
                    ids = encode_prompt(self.tokenizer, request)
                    if limit is not None and len(ids) >= limit:
                        yield prompt_too_long(request, len(ids), limit)
                    else:
                        pending[number] = request, ids
                if pending:
                    yield from self._answer(pending, sampling)

    def close(self) -> None:
        """Do nothing: replicas end with their window."""

    def _answer(
        self, pending: dict[int, tuple[Request, list[int]]], sampling: Sampling
    ) -> Iterator[Completion]:
        """Answer a window. A row that comes back twice counts once."""
        limited = generation_limit(self.tokenizer, sampling)
        rows = [
            {
                "number": number,
                "ids": ids,
                "seed": request.seed,
                "max_tokens": request.limit(limited),
            }
            for number, (request, ids) in pending.items()
        ]
        blocks = -(-len(rows) // self.options.batch_size)
        dataset = require("ray.data", extra="ray").from_items(rows, override_num_blocks=blocks)
        end = int(self.tokenizer.convert_tokens_to_ids(str(self.tokenizer.eos_token)))
        processor = _make_processor(self.name, self.options, limited, end, blocks)
        for row in processor(dataset).iter_rows():
            if (entry := pending.pop(int(row["number"]), None)) is not None:
                yield self._complete(*entry, row, sampling)
        for request, ids in pending.values():
            yield failed_completion(request, "the cluster returned no answer", len(ids))

    def _complete(
        self, request: Request, ids: list[int], row: Mapping[str, Any], sampling: Sampling
    ) -> Completion:
        if error := row["__inference_error__"]:
            return failed_completion(request, f"vLLM failed: {error}", len(ids))
        answer = [int(token) for token in row["generated_tokens"]]
        finish: Literal["stop", "length"] = "length"
        if answer and answer[-1] in self._ends:
            finish = "stop"
        return decode_completion(request, self.tokenizer, answer, finish, ids, sampling)


def _make_processor(
    name: str, options: RayOptions, sampling: Sampling, end: int, blocks: int
) -> Any:
    """Return the processor for a dataset of `number`, `ids`, `seed`, and `max_tokens`.

    The processed dataset has the columns `number`, `generated_tokens`, and `__inference_error__`,
    which is empty if a row succeeded. The process must be connected to the cluster.

    Raises:
        InputError: vLLM or Ray rejects the options.
        MissingExtraError: vLLM or Ray is not installed.
    """
    require("vllm", extra="vllm")
    llm = require("ray.data.llm", extra="ray")
    # A window that leaves a replica without work is not a problem.
    warnings.filterwarnings("ignore", r"The (minimum|maximum) number of concurrent", UserWarning)
    on_cpu = options.device == "cpu"
    if options.device == "auto":
        on_cpu = not require("ray", extra="ray").cluster_resources().get("GPU")
    replicas = min(options.replicas, blocks)
    engine: dict[str, Any] = {
        "dtype": options.dtype,
        "load_format": "safetensors",
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if options.max_model_len is not None:
        engine["max_model_len"] = options.max_model_len
    variables = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    if on_cpu:
        engine["enforce_eager"] = True
        engine["kv_cache_memory_bytes"] = int(options.kv_cache_gib * 2**30)
        engine["logits_processors"] = [ROW_SAMPLER]
        # Ray gives a replica a number of CPUs, not their ids: vLLM would bind all to the first.
        variables["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        variables["OMP_NUM_THREADS"] = str(options.cpus)
    bundle = {"bundle_per_worker": {"CPU": options.cpus}} if on_cpu else None
    try:
        config = llm.vLLMEngineProcessorConfig(
            model_source=resolve_model(name),
            engine_kwargs={**engine, **options.engine_kwargs},
            concurrency=(replicas, replicas),
            batch_size=options.batch_size,
            max_concurrent_batches=options.batches,
            placement_group_config=bundle,
            runtime_env={"env_vars": variables},
            log_engine_metrics=False,
            should_continue_on_error=True,
            chat_template_stage=False,
            tokenize_stage=False,
            detokenize_stage=False,
        )
    except ValueError as error:
        message = " ".join(str(error).split())
        raise InputError(f"Ray does not accept these options: {message}") from error
    # Tasks that only rename columns ask for no CPU, so that replicas may have all of them.
    return llm.build_processor(
        config,
        preprocess=partial(_to_processor, sampling=sampling, end=end, on_cpu=on_cpu),
        postprocess=_from_processor,
        preprocess_map_kwargs={"num_cpus": 0, "concurrency": min(2, blocks)},
        postprocess_map_kwargs={"num_cpus": 0},
    )


def _to_processor(
    row: dict[str, Any], *, sampling: Sampling, end: int, on_cpu: bool
) -> dict[str, Any]:
    """Return a row's columns under the processor's names."""
    parameters = sampling_arguments(
        sampling, int(row["seed"]), end, on_cpu=on_cpu, max_tokens=int(row["max_tokens"])
    )
    return {"tokenized_prompt": row["ids"], "sampling_params": parameters}


def _from_processor(row: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of an answered row that the driver needs."""
    return {"number": row["number"], "generated_tokens": row["generated_tokens"]}


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start one, and silence Ray Data.

    Raises:
        InputError: No cluster answers at the address.
        EngineError: The cluster failed.
    """
    ray, data = require("ray", extra="ray"), require("ray.data", extra="ray")
    connects = not ray.is_initialized()
    if connects:
        try:
            _check_answers(address or os.environ.get("RAY_ADDRESS", ""))
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(
                f"no Ray cluster answers at {address or 'this machine'}: {_last_line(error)}; "
                "start one with ray start --head, or give another --address"
            ) from error
    elif address not in (None, "auto", there := ray.get_runtime_context().gcs_address):
        raise InputError(
            f"this process is connected to the Ray cluster {there}, not to {address}: give that "
            "address, or none"
        )
    log, context = logging.getLogger("ray.data"), data.DataContext.get_current()
    level, bars = log.level, context.enable_progress_bars
    log.setLevel(logging.ERROR)
    context.enable_progress_bars = False
    try:
        yield
    except (ray.exceptions.RayError, data.exceptions.SystemException) as error:
        raise EngineError(
            f"the Ray cluster failed: {_last_line(error)}; every node needs this package in the "
            "same version"
        ) from error
    finally:
        log.setLevel(level)
        context.enable_progress_bars = bars
        if connects:
            ray.shutdown()


def _check_answers(address: str) -> None:
    """Fail at once when nothing listens at an address: Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
