"""`delia train` for processes on CPUs, sharded where the launch asks for FSDP.

accelerate 1.15 shards on accelerators alone: with `use_cpu` it ignores an FSDP configuration
without a warning, and each process holds a whole model. torch itself shards on CPUs, and so does
the rest of accelerate when its state says that the processes shard. Run as a script:

    accelerate launch --config_file fsdp.yaml train_on_cpus.py MIXTURE OUT ...

It prints "sharded" when all weights are, and with KILL_AFTER=5 kills itself after step 5.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from delia_data.training.loading import is_sharded
from delia_data.training.trainer import MixtureTrainer


class CpuTrainer(MixtureTrainer):
    """The trainer, with an accelerator that shards over CPU processes."""

    def create_accelerator_and_postprocess(self) -> None:
        from accelerate import PartialState
        from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

        super().create_accelerator_and_postprocess()
        state = self.accelerator.state
        if not is_sharded() or self.accelerator.distributed_type != DistributedType.MULTI_CPU:
            return
        state.distributed_type = DistributedType.FSDP
        # Every new AcceleratorState takes its type from the shared one.
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        state.fsdp_plugin = FullyShardedDataParallelPlugin()
        self.accelerator.get_state_dict = gathered
        self.is_fsdp_enabled = True

    def training_step(self, model: Any, *args: Any) -> torch.Tensor:
        if all(isinstance(weight, DTensor) for weight in model.parameters()):
            assert self.accelerator.is_fsdp2
            print("sharded")
        if self.state.global_step == int(os.environ.get("KILL_AFTER", -1)):
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().training_step(model, *args)


def gathered(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return all weights, gathered in every process; torch leaves them sharded on CPUs."""
    return {
        name: weight.full_tensor().clone() if isinstance(weight, DTensor) else weight
        for name, weight in model.state_dict().items()
    }


if __name__ == "__main__":
    import delia_data.training.trainer as module
    from delia_data.cli import main

    module.MixtureTrainer = CpuTrainer  # type: ignore[misc]
    sys.argv.insert(1, "train")
    main()
