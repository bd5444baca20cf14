"""Ray Data's LLM processor, set up so that ids go in and ids come out.

Prompts are rendered before and answers decoded after, by what the other engines use, so that all
of them ask alike and tell alike.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from delia_data._optional import require
from delia_data.engines._vllm_picker import PICKER, sampling_arguments
from delia_data.engines.base import Sampling
from delia_data.errors import InputError
from delia_data.models import resolve_model


@dataclass(frozen=True, kw_only=True)
class RaySettings:
    """How a cluster is used.

    Attributes:
        address: Address of the cluster; a cluster on this machine is started where there is none.
        replicas: vLLM engines that work at once.
        device: What a replica runs on; `"auto"` takes GPUs where the cluster has any.
        cpus: CPUs of a replica that runs on them.
        batch_size: Rows that are sent to a replica, and come back, together.
        batches: Batches that a replica works on at once.
        window: Requests that are taken at a time. Replicas start anew with each window, so that
            a small one costs time.
        dtype: Type of the weights.
        max_model_len: Tokens of a prompt with its answer at most; the model's own bound when not
            given.
        kv_cache_gib: Memory of a replica for what attention keeps, in GiB, on a CPU.
        engine_kwargs: Other arguments of vLLM's engine.

    Raises:
        InputError: A number is below 1.
    """

    address: str | None = None
    replicas: int = 1
    device: Literal["auto", "cpu", "gpu"] = "auto"
    cpus: int = 1
    batch_size: int = 16
    batches: int = 16
    window: int = 8192
    dtype: str = "bfloat16"
    max_model_len: int | None = None
    kv_cache_gib: float = 4.0
    engine_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "gpu"):
            raise InputError(f"device {self.device!r} is unknown: use one of auto, cpu, gpu")
        for name in ("replicas", "cpus", "batch_size", "batches", "window"):
            if (number := getattr(self, name)) < 1:
                raise InputError(f"{name} is {number}: give at least 1")


def make_processor(
    name: str, settings: RaySettings, sampling: Sampling, end: int, blocks: int
) -> Any:
    """Make the processor that maps a dataset of `number`, `ids` and `seed`.

    Its rows have `number`, `generated_tokens` and `__inference_error__`, which is empty where all
    went well. The process is connected to the cluster.

    Args:
        name: The model's name, folder or Hub id.
        settings: How the cluster is used.
        sampling: How answers are drawn.
        end: Id of the token that ends an answer.
        blocks: Blocks of the dataset.

    Raises:
        InputError: vLLM or Ray does not take the settings.
        MissingExtraError: vLLM or Ray is not installed.
    """
    require("vllm", extra="vllm")
    llm = require("ray.data.llm", extra="ray")
    # A window that leaves a replica without work is no fault.
    warnings.filterwarnings("ignore", r"The (minimum|maximum) number of concurrent", UserWarning)
    on_cpu, replicas = _on_cpu(settings), min(settings.replicas, blocks)
    engine: dict[str, Any] = {
        "dtype": settings.dtype,
        "load_format": "safetensors",
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if settings.max_model_len is not None:
        engine["max_model_len"] = settings.max_model_len
    variables = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    if on_cpu:
        engine["enforce_eager"] = True
        engine["kv_cache_memory_bytes"] = int(settings.kv_cache_gib * 2**30)
        engine["logits_processors"] = [PICKER]
        # Ray tells a replica how many CPUs it has, not which: vLLM would bind all to the first.
        variables["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        variables["OMP_NUM_THREADS"] = str(settings.cpus)
    try:
        config = llm.vLLMEngineProcessorConfig(
            model_source=resolve_model(name),
            engine_kwargs={**engine, **settings.engine_kwargs},
            concurrency=(replicas, replicas),
            batch_size=settings.batch_size,
            max_concurrent_batches=settings.batches,
            placement_group_config=(
                {"bundle_per_worker": {"CPU": settings.cpus}} if on_cpu else None
            ),
            runtime_env={"env_vars": variables},
            log_engine_metrics=False,
            should_continue_on_error=True,
            chat_template_stage=False,
            tokenize_stage=False,
            detokenize_stage=False,
        )
    except ValueError as error:
        raise InputError(
            f"Ray does not take these settings: {' '.join(str(error).split())}"
        ) from error
    # Tasks that only rename columns ask for no CPU, so that replicas may have every one.
    return llm.build_processor(
        config,
        preprocess=partial(_ask, sampling=sampling, end=end, picks=on_cpu),
        postprocess=_keep,
        preprocess_map_kwargs={"num_cpus": 0, "concurrency": min(2, blocks)},
        postprocess_map_kwargs={"num_cpus": 0},
    )


def _on_cpu(settings: RaySettings) -> bool:
    if settings.device != "auto":
        return settings.device == "cpu"
    return not require("ray", extra="ray").cluster_resources().get("GPU")


def _ask(row: dict[str, Any], *, sampling: Sampling, end: int, picks: bool) -> dict[str, Any]:
    """Name a row's columns as the processor wants them."""
    parameters = sampling_arguments(sampling, int(row["seed"]), end, picks=picks)
    return {"tokenized_prompt": row["ids"], "sampling_params": parameters}


def _keep(row: dict[str, Any]) -> dict[str, Any]:
    """Keep what the driver needs of an answered row."""
    return {"number": row["number"], "generated_tokens": row["generated_tokens"]}
