"""Sharding over processes: on CPUs too, to try there what GPUs will do, and of shared weights.

accelerate 1.15 shards on accelerators alone: with `use_cpu` it leaves an FSDP configuration aside
without a word, and each process holds a whole model. torch itself shards on CPUs, and so does the
rest of accelerate, once it is told that the processes shard.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft.tuners.trainable_tokens import TrainableTokensLayer
from torch.distributed.tensor import DTensor, distribute_tensor

from delia_data.training.processes import sharding_is_asked_for


def shard_on_cpu(accelerator: Any) -> bool:
    """Let an accelerator shard over its CPU processes, where its launch asks for FSDP.

    Args:
        accelerator: Accelerate's `Accelerator`, before it has prepared anything.

    Returns:
        Whether it shards now.
    """
    from accelerate import PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    on_cpus = accelerator.distributed_type == DistributedType.MULTI_CPU
    if not (on_cpus and sharding_is_asked_for()):
        return False
    state = accelerator.state
    state.distributed_type = DistributedType.FSDP
    # Every new AcceleratorState takes what this one says over what the last one was told.
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    state.fsdp_plugin = FullyShardedDataParallelPlugin()
    accelerator.get_state_dict = _gathered
    return True


def _gathered(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All weights, whole, in every process; torch's own way leaves them sharded on CPUs."""
    return {
        name: weight.full_tensor().clone() if isinstance(weight, DTensor) else weight
        for name, weight in model.state_dict().items()
    }


@contextmanager
def shared_weights_seen(model: torch.nn.Module) -> Iterator[None]:
    """Let it be seen that a head and an embedding are one weight, while a model is sharded.

    Where PEFT trains rows of both, each gives a copy of the weight with its rows in place, and
    accelerate, which compares the two, shards the one weight twice: torch refuses that.
    """
    wrapped = [
        (module, layer.get_base_layer())
        for module in model.modules()
        if isinstance(layer := getattr(module, "token_adapter", None), TrainableTokensLayer)
    ]
    for module, base in wrapped:
        module.__dict__["weight"] = base.weight
    try:
        yield
    finally:
        for module, _ in wrapped:
            del module.__dict__["weight"]


def load_trained(model: torch.nn.Module, file: Path) -> None:
    """Give a sharded model the trained weights of a checkpoint; every process calls it.

    torch's own way walks each shared module once, and then misses the second name under which a
    checkpoint has the trained rows of a tied head.

    Args:
        model: The model; what it trains is overwritten in place.
        file: Whole weights by name, as accelerate saves a `FULL_STATE_DICT`.
    """
    whole = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not weight.requires_grad:
                continue
            if isinstance(weight, DTensor):
                mesh, places = weight.device_mesh, weight.placements
                own = whole[name].to(weight.device)  # each process cuts its part out by itself
                weight.copy_(distribute_tensor(own, mesh, places, src_data_rank=None))
            else:
                weight.copy_(whole[name])
