"""TRL's trainer for mixtures: in order, packed, with logits only where there are labels."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils.constants import FSDP_MODEL_NAME
from torch.utils.data import DataLoader
from trl import SFTTrainer

from delia_data.errors import SettingsError
from delia_data.training.attention import packed_attention
from delia_data.training.batches import IGNORED, StepBatches
from delia_data.training.loss_forward import give_losses, plain_forward
from delia_data.training.noise import EmbeddingNoise, lengths_of_rows
from delia_data.training.packing import StepPlan, plan_steps
from delia_data.training.progress import WatchCallback
from delia_data.training.sharding import load_trained, shard_on_cpu, shared_weights_seen
from delia_data.training.token_rows import read_rows_in_place
from delia_data.training.watching import Watch


class MixtureTrainer(SFTTrainer):  # type: ignore[misc]
    """`SFTTrainer` that takes the rows of a mixture in order and computes no padding.

    An optimiser step holds the rows that it holds without packing, and its loss is the mean over
    all labelled tokens of the step, however many micro-batches and processes share them. With each
    loss it logs the mean over the labelled tokens of task rows and over those of pairs.
    """

    def __init__(
        self,
        *args: Any,
        batch_size: int | None = None,
        micro_batch_tokens: int | None = None,
        token_learning_rate: float | None = None,
        **kwargs: Any,
    ) -> None:
        """Make the trainer.

        Args:
            *args: As for `SFTTrainer`; rows may have a column `is_task`. The batch size of a
                device is the most rows that are computed at once.
            batch_size: Rows of an optimiser step, over all processes; None takes the arguments'
                batch size of a device, times gradient accumulation and processes.
            micro_batch_tokens: Tokens packed into one sequence at most; None pads rows instead.
            token_learning_rate: Learning rate of the token's embedding row, if it has its own.
            **kwargs: As for `SFTTrainer`.
        """
        self.token_learning_rate = token_learning_rate
        super().__init__(*args, **kwargs)
        processes, micro_batch_size = self.accelerator.num_processes, self._train_batch_size
        if batch_size is None:
            batch_size = micro_batch_size * self.args.gradient_accumulation_steps * processes
        if self.args.ddp_find_unused_parameters is None:
            self.args.ddp_find_unused_parameters = False  # every trained weight is used each time
        # A step's micro-batches are this class's own; for the loop around them a step is one.
        self.args.gradient_accumulation_steps = 1
        self.accelerator.gradient_accumulation_steps = 1
        self.plan = StepPlan(batch_size, micro_batch_size, micro_batch_tokens, processes)
        self._sums = torch.zeros(2, 2, device=self.args.device)  # (pairs, task) x (loss, tokens)
        causal = self._causal(self.model)
        # TRL turns what is trained beside weights in 4 bits into bfloat16, which is too coarse for
        # most steps: 0.1 and a step of 2e-4 are 0.1 again.
        if getattr(causal, "is_loaded_in_4bit", False):
            for weight in causal.parameters():
                if weight.requires_grad:
                    weight.data = weight.data.float()
        # LoRA's matrices are kept in float32 beside weights in bfloat16, and computed as these.
        self._in_bfloat16 = any(p.dtype == torch.bfloat16 for p in causal.parameters())
        plain_forward(causal)
        give_losses(causal)
        read_rows_in_place(causal)
        # transformers' own noise takes a packed sequence for one row.
        alpha, self.neftune_noise_alpha = self.args.neftune_noise_alpha, None
        embedding = causal.get_input_embeddings()
        self._noise = None if alpha is None else EmbeddingNoise(embedding, alpha)
        # The vocabulary grew by the token alone, whose row the adapter has: checkpoints need not
        # carry the whole embedding.
        if causal is not self.model:
            save = self.model.save_pretrained
            self.model.save_pretrained = functools.partial(save, save_embedding_layers=False)

    def create_accelerator_and_postprocess(self) -> None:
        """Make the accelerator; one that is to shard on CPUs does."""
        super().create_accelerator_and_postprocess()
        self.is_fsdp_enabled |= shard_on_cpu(self.accelerator)

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        with shared_weights_seen(self.model) if self.is_fsdp_enabled else nullcontext():
            return super()._prepare_for_training(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        whole = Path(resume_from_checkpoint) / f"{FSDP_MODEL_NAME}.bin"
        if self.is_fsdp_enabled and whole.is_file():
            load_trained(self.model if model is None else model, whole)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def watch(self, watches: Sequence[Watch], every_steps: int, file: Path) -> None:
        """Measure the model every so many steps, into a file and the trainer's logs.

        Raises:
            SettingsError: The model is sharded, so that no process can read all of it.
        """
        if self.is_fsdp_enabled:
            raise SettingsError(
                "watch_every_steps reads a whole model, and FSDP shards it: leave it out, or "
                "launch with ddp.yaml"
            )
        self.add_callback(WatchCallback(watches, every_steps, file=file, log=self.log))

    def save_whole(self, folder: Path) -> None:
        """Save what was trained and the tokenizer, gathered where it is sharded.

        Every process calls it; the main one writes.
        """
        state = self.accelerator.get_state_dict(self.model) if self.is_fsdp_enabled else None
        if self.is_world_process_zero():
            self.model.save_pretrained(folder, state_dict=state)
            self._tokenizer.save_pretrained(folder)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """One item an optimiser step: this process's micro-batches of it, in the rows' order."""
        rows = self.train_dataset
        if "is_task" not in rows.column_names:
            rows = rows.add_column("is_task", [False] * len(rows))
        labels = [np.asarray(row) for row in rows["labels"]]
        steps = plan_steps([len(row) for row in labels], self.plan)
        # The first token has no label, whatever it says.
        labelled = [int((row[1:] != IGNORED).sum()) for row in labels]
        batches = StepBatches(
            rows,
            steps,
            labelled,
            process=self.accelerator.process_index,
            packed=self.plan.micro_batch_tokens is not None,
            pad_id=self._tokenizer.pad_token_id,
        )
        return DataLoader(batches, batch_size=1, shuffle=False, collate_fn=lambda items: items[0])

    def training_step(
        self,
        model: Any,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Add up the gradients of a step's micro-batches; processes meet at the last one."""
        model.train()
        total = torch.zeros((), device=self.args.device)
        batches = inputs["micro_batches"]
        packed = self.plan.micro_batch_tokens is not None
        with packed_attention(self._causal(model)) if packed else nullcontext():
            for number, batch in enumerate(batches, start=1):
                tensors = self._prepare_inputs(batch)
                last = number == len(batches)
                with nullcontext() if last else self.accelerator.no_sync(model):
                    loss = self.compute_loss(
                        model, tensors, num_items_in_batch=max(1, inputs["labelled"])
                    )
                    self.accelerator.backward(loss)
                total += loss.detach()
        return total

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Cross-entropy of a micro-batch's labelled tokens over all those of its step.

        Processes average their gradients, so that each takes its loss times their number.
        """
        is_task = inputs.pop("is_task", None)
        noise: AbstractContextManager[None] = nullcontext()
        if self._noise is not None and model.training:
            noise = self._noise.rows(lengths_of_rows(inputs))
        with noise, torch.autocast(self.args.device.type, torch.bfloat16, self._in_bfloat16):
            total, losses = model(**inputs, use_cache=False)
        labelled = inputs["labels"][:, 1:] != IGNORED
        if is_task is not None and model.training:
            source = is_task[:, 1:][labelled].long()
            self._sums[:, 0].index_add_(0, source, losses)
            self._sums[:, 1].index_add_(0, source, torch.ones_like(losses))
        items = labelled.sum() if num_items_in_batch is None else num_items_in_batch
        scale = 1 if num_items_in_batch is None else self.accelerator.num_processes
        loss = total * scale / items
        return (loss, {"losses": losses}) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the loss on task rows and on pairs since the last one was logged."""
        if "loss" in logs:
            sums = self.accelerator.reduce(self._sums, "sum").tolist()
            names = ("loss_pairs", "loss_task")
            logs |= {n: loss / count for n, (loss, count) in zip(names, sums, strict=True) if count}
            self._sums.zero_()
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Twice for each weight forwards, and as often backwards: frozen ones have no gradient."""
        batches = inputs["micro_batches"]
        tokens = sum(int((batch["input_ids"] != -1).sum()) for batch in batches)
        return 4 * tokens * int(self._causal(self.model).num_parameters(exclude_embeddings=True))

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Give the token's row its own learning rate, without decay."""
        if self.token_learning_rate is None:
            made: torch.optim.Optimizer = super().create_optimizer(model)
            return made
        named = [(n, p) for n, p in (model or self.model).named_parameters() if p.requires_grad]
        row = [p for n, p in named if "trainable_tokens" in n]
        rest = [p for n, p in named if "trainable_tokens" not in n]
        optimizer = torch.optim.AdamW(
            [
                {"params": rest, "weight_decay": self.args.weight_decay},
                {"params": row, "lr": self.token_learning_rate, "weight_decay": 0.0},
            ],
            lr=self.args.learning_rate,
        )
        self.optimizer = optimizer
        return optimizer

    def _causal(self, model: Any) -> Any:
        """The causal language model below what accelerate and peft wrap around it."""
        inner = self.accelerator.unwrap_model(model)
        return inner.get_base_model() if hasattr(inner, "get_base_model") else inner
