"""TRL's trainer for mixtures: rows in order, packed, with logits only at labels."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from accelerate.utils.constants import FSDP_MODEL_NAME
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerState
from trl import SFTTrainer

from delia_data.errors import SettingsError
from delia_data.evaluation.representation import evaluating
from delia_data.training.loading import embedding_rms
from delia_data.training.loss import Teacher, give_losses, read_rows_in_place
from delia_data.training.packing import IGNORED, StepBatches, StepPlan, packed_attention, plan_steps
from delia_data.training.watching import BEST_BY, Watch, drop_after


class MixtureTrainer(SFTTrainer):  # type: ignore[misc]
    """`SFTTrainer` that takes the rows of a mixture in order and computes no padding.

    An optimizer step holds the rows that it holds without packing, and its loss is the mean over
    all labeled tokens of the step, however many micro-batches and processes share them. With each
    loss it logs the mean over the labeled tokens of task rows and over those of pairs.
    """

    def __init__(
        self,
        *args: Any,
        batch_size: int | None = None,
        micro_batch_tokens: int | None = None,
        token_ids: Sequence[int] = (),
        token_rate: float | None = None,
        pairs_loss: str = "ce",
        **kwargs: Any,
    ) -> None:
        """Make the trainer.

        Args:
            *args: As for `SFTTrainer`; rows may have a column `is_task`. The batch size of a
                device bounds the rows that are computed at once.
            batch_size: Rows of an optimizer step, over all processes; None takes the arguments'
                batch size of a device, times gradient accumulation and processes.
            micro_batch_tokens: Maximum tokens to pack into one sequence; None pads rows instead.
            token_ids: Ids of the special tokens.
            token_rate: Learning rate of the tokens' embedding rows, as a share of the root mean
                square of the embedding's values; None for the learning rate of the rest.
            pairs_loss: Loss of rows outside the task: `"ce"` for cross-entropy, `"kl"` for the
                divergence from the untrained model, which is the model with its adapter switched
                off, or a frozen copy without one.
            **kwargs: As for `SFTTrainer`.
        """
        self.token_learning_rate: float | None = None
        self._teacher: Any = None
        self._watches: tuple[Watch, ...] = ()
        self.pairs_loss = pairs_loss
        super().__init__(*args, **kwargs)
        processes, micro_batch_size = self.accelerator.num_processes, self._train_batch_size
        if batch_size is None:
            batch_size = micro_batch_size * self.args.gradient_accumulation_steps * processes
        if self.args.ddp_find_unused_parameters is None:
            self.args.ddp_find_unused_parameters = False  # every trained weight is used each time
        # This class cuts a step into micro-batches itself; for the loop around it a step is one.
        self.args.gradient_accumulation_steps = 1
        self.accelerator.gradient_accumulation_steps = 1
        self.plan = StepPlan(batch_size, micro_batch_size, micro_batch_tokens, processes)
        self._sums = torch.zeros(2, 2, device=self.args.device)  # (pairs, task) x (loss, tokens)
        causal = self._causal(self.model)
        # TRL turns trained weights into bfloat16 if the model is in 4 bits, which is too coarse
        # for most steps: 0.1 plus a step of 2e-4 is 0.1 again.
        if getattr(causal, "is_loaded_in_4bit", False):
            for weight in causal.parameters():
                if weight.requires_grad:
                    weight.data = weight.data.float()
        # LoRA's weights are kept in float32 next to weights in bfloat16, and computed in bfloat16.
        self._in_bfloat16 = any(p.dtype == torch.bfloat16 for p in causal.parameters())
        if token_rate is not None:
            self.token_learning_rate = token_rate * embedding_rms(causal)
        causal.__dict__.pop("forward", None)  # TRL's fused head
        if pairs_loss == "kl" and causal is self.model:
            self._teacher = copy.deepcopy(causal).requires_grad_(False).eval()
            give_losses(self._teacher, token_ids=token_ids)
        give_losses(causal, token_ids=token_ids)
        read_rows_in_place(causal)
        # The vocabulary grew by the token alone, and the adapter has its row: checkpoints need not
        # carry the whole embedding.
        if causal is not self.model:
            save = self.model.save_pretrained
            self.model.save_pretrained = functools.partial(save, save_embedding_layers=False)

    def watch(
        self,
        watches: Sequence[Watch],
        every_steps: int,
        file: Path,
        *,
        patience: int | None = None,
        checkpoint: str | None = None,
    ) -> bool:
        """Measure the model before the first step, at each evaluation, and after the last step.

        Each measurement is one line of `file`, and goes to the trainer's logs: the loss on each
        evaluation dataset, the divergence from the untrained model on the dataset `pairs`, and
        the numbers of the watches.

        Args:
            watches: More measurements; their names must differ.
            every_steps: Steps between two measurements, the arguments' `eval_steps`.
            file: File of the measurements. A run that resumes from a checkpoint first drops the
                lines of the steps that it repeats.
            patience: Measurements without a better best metric after which training stops.
            checkpoint: Checkpoint from which the training resumes, if there is one.

        Returns:
            Whether it is one at which training stopped: its best weights are loaded, and there is
            nothing left to train.
        """
        if self.is_fsdp_enabled:
            raise SettingsError(
                "watch_every_steps reads a whole model, and FSDP shards it: leave it out, or "
                "launch with ddp.yaml"
            )
        self._watches, self._watch_file = tuple(watches), file
        callback = WatchCallback(self.measure, every_steps, file, patience)
        self.add_callback(callback)
        if checkpoint is None:
            return False
        state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
        if not callback.stalled(state):
            return False
        self.state = state
        self.state.best_model_checkpoint = callback.best_checkpoint(self.args, state)
        self._load_best_model()
        return True

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure the model, and tell the callbacks; arguments are ignored."""
        values = self.measure()
        if "eval_leak" in values:  # equal leaks are frequent
            values[BEST_BY["leak"]] = values["eval_leak"] + 1e-6 * values.get("eval_loss_task", 0.0)
        self.callback_handler.on_evaluate(self.args, self.state, self.control, values)
        return values

    def measure(self) -> dict[str, float]:
        """Return the measurements of the model as it is, after writing and logging them."""
        values = self._held_out_losses()
        for watch in self._watches:
            measured = watch.measure(self.model, self._tokenizer, self.state.global_step)
            if twice := sorted(values.keys() & measured.keys()):
                raise SettingsError(f"two watches return {', '.join(twice)}: rename one")
            values |= measured
        if self.accelerator.num_processes > 1:  # all take the same checkpoint for the best
            (values,) = broadcast_object_list([values])
        if not values:
            return {}
        if self.is_world_process_zero():
            self._watch_file.parent.mkdir(parents=True, exist_ok=True)
            with self._watch_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": self.state.global_step, **values}) + "\n")
        self.log(dict(values))
        return values

    def _held_out_losses(self) -> dict[str, float]:
        """Return the loss on each evaluation dataset, and how far pairs are from the untrained."""
        given: dict[str, Any] = self.eval_dataset or {}
        by_kl = self.pairs_loss == "kl"
        values = {
            f"eval_loss_{name}": self._mean_loss(rows, with_teacher=by_kl and name != "task")
            for name, rows in given.items()
        }
        if by_kl and "pairs" in given:
            values["eval_keep"] = values["eval_loss_pairs"]
        elif "pairs" in given and self._causal(self.model) is not self.model:
            values["eval_keep"] = self._mean_loss(given["pairs"], with_teacher=True)
        return values

    def _mean_loss(self, rows: Any, *, with_teacher: bool) -> float:
        """Return the mean loss of rows' labeled tokens; processes share the rows."""
        packed = self.plan.micro_batch_tokens is not None
        sums = torch.zeros(2, device=self.args.device)
        with (
            evaluating(self.model),
            packed_attention(self._causal(self.model)) if packed else nullcontext(),
        ):
            # A loader would draw a random number.
            steps = self._step_batches(rows, with_teacher=with_teacher)
            for number in range(len(steps)):
                for batch in steps[number]["micro_batches"]:
                    inputs = self._prepare_inputs(batch)
                    _, seen = self.compute_loss(self.model, inputs, return_outputs=True)
                    sums += torch.stack(
                        [seen["losses"].sum(), sums.new_tensor(len(seen["losses"]))]
                    )
        total, count = map(float, self.accelerator.reduce(sums, "sum").tolist())
        return total / max(1.0, count)

    @contextmanager
    def untrained(self) -> Iterator[Any]:
        """Yield the untrained model: the frozen copy, or the model without its adapter."""
        if self._teacher is not None:
            yield self._teacher
        else:
            with _adapters_off(self.model):
                yield self.model

    def save_whole(self, folder: Path) -> None:
        """Save the trained weights and the tokenizer, gathered from all shards.

        Every process calls it; the main one writes.
        """
        state = self.accelerator.get_state_dict(self.model) if self.is_fsdp_enabled else None
        if self.is_world_process_zero():
            self.model.save_pretrained(folder, state_dict=state)
            self._tokenizer.save_pretrained(folder)

    def _send_telemetry(self) -> None:
        """Send nothing; TRL reports each training to the Hub."""

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return one item per optimizer step: this process's micro-batches, in the rows' order."""
        batches = self._step_batches(self.train_dataset, with_teacher=self.pairs_loss == "kl")
        return DataLoader(batches, batch_size=1, shuffle=False, collate_fn=lambda items: items[0])

    def _step_batches(self, rows: Any, *, with_teacher: bool) -> StepBatches:
        if "is_task" not in rows.column_names:
            rows = rows.add_column("is_task", [False] * len(rows))
        labels = [np.asarray(row) for row in rows["labels"]]
        steps = plan_steps([len(row) for row in labels], self.plan)
        # The first token has no prefix, so it never has a label.
        labeled = [int((row[1:] != IGNORED).sum()) for row in labels]
        return StepBatches(
            rows,
            steps,
            labeled,
            process=self.accelerator.process_index,
            packed=self.plan.micro_batch_tokens is not None,
            pad_id=self._tokenizer.pad_token_id,
            with_teacher=with_teacher,
        )

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
                        model, tensors, num_items_in_batch=max(1, inputs["labeled"])
                    )
                    self.accelerator.backward(loss)
                total += loss.detach()
        return total

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the loss of a micro-batch's labeled tokens over those of its step.

        Processes average their gradients, so each multiplies its loss by their number.
        """
        is_task, taught = inputs.pop("is_task", None), inputs.pop("teacher", None)
        more = {}
        if taught is not None:
            more = {"is_task": is_task, "teacher": self._teach(model, taught)}
        if self.neftune_noise_alpha is not None and "cu_seq_lens_q" in inputs:
            # The noise of transformers' hook falls with the length of the sequence, and a packed
            # sequence holds several rows: scale it to their mean length.
            rows = len(inputs["cu_seq_lens_q"]) - 1
            embedding = self._causal(model).get_input_embeddings()
            embedding.neftune_noise_alpha = self.neftune_noise_alpha * rows**0.5
        with torch.autocast(self.args.device.type, torch.bfloat16, self._in_bfloat16):
            total, losses = model(**inputs, **more, use_cache=False)
        labeled = inputs["labels"][:, 1:] != IGNORED
        if is_task is not None and model.training:
            source = is_task[:, 1:][labeled].long()
            self._sums[:, 0].index_add_(0, source, losses)
            self._sums[:, 1].index_add_(0, source, torch.ones_like(losses))
        items = labeled.sum() if num_items_in_batch is None else num_items_in_batch
        scale = 1 if num_items_in_batch is None else self.accelerator.num_processes
        loss = total * scale / items
        return (loss, {"losses": losses}) if return_outputs else loss

    def _teach(self, model: Any, rows: dict[str, Any]) -> Teacher:
        """Return the untrained model's view of the labeled positions of rows."""
        rows = {name: value for name, value in rows.items() if name != "is_task"}
        teacher, was_training = self._teacher, model.training
        packed = teacher and "cu_seq_lens_q" in rows
        model.eval()  # no dropout, and no noise on embeddings
        with (
            torch.no_grad(),
            nullcontext() if teacher else _adapters_off(model),
            packed_attention(teacher) if packed else nullcontext(),
            torch.autocast(self.args.device.type, torch.bfloat16, self._in_bfloat16),
        ):
            seen: Teacher = (teacher or model)(**rows, states_only=True, use_cache=False)
        model.train(was_training)
        if teacher is None or seen.head is not None:
            return seen
        return Teacher(seen.states, teacher.get_output_embeddings())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the loss on task rows and on pairs since the last one was logged."""
        if "loss" in logs:
            sums = self.accelerator.reduce(self._sums, "sum").tolist()
            names = ("loss_pairs", "loss_task")
            logs |= {n: loss / count for n, (loss, count) in zip(names, sums, strict=True) if count}
            self._sums.zero_()
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Count 2 per weight forwards and 2 backwards: frozen weights have no gradient.

        A teacher's pass has no backward part.
        """
        batches = inputs["micro_batches"]
        tokens: int = sum(
            4 * batch["input_ids"].numel()
            + (2 * batch["teacher"]["input_ids"].numel() if "teacher" in batch else 0)
            for batch in batches
        )
        return tokens * int(self._causal(self.model).num_parameters(exclude_embeddings=True))

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Set a separate learning rate without decay for the tokens' rows."""
        if self.token_learning_rate is None:
            made: torch.optim.Optimizer = super().create_optimizer(model)
            return made
        named = [(n, p) for n, p in (model or self.model).named_parameters() if p.requires_grad]
        row = [p for n, p in named if "trainable_tokens" in n]
        rest = [p for n, p in named if "trainable_tokens" not in n]
        kind: Any = torch.optim.AdamW
        options: dict[str, Any] = {"lr": self.args.learning_rate}
        if self.args.optim != self.args.default_optim:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, model or self.model)
        optimizer: torch.optim.Optimizer = kind(
            [
                {"params": rest, "weight_decay": self.args.weight_decay},
                {"params": row, "lr": self.token_learning_rate, "weight_decay": 0.0},
            ],
            **options,
        )
        self.optimizer = optimizer
        return optimizer

    def _causal(self, model: Any) -> Any:
        """Return the causal language model inside the wrappers of accelerate and PEFT."""
        inner = self.accelerator.unwrap_model(model)
        return inner.get_base_model() if hasattr(inner, "get_base_model") else inner

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        with _shared_weights(self.model) if self.is_fsdp_enabled else nullcontext():
            return super()._prepare_for_training(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        whole = Path(resume_from_checkpoint) / f"{FSDP_MODEL_NAME}.bin"
        if self.is_fsdp_enabled and whole.is_file():
            _load_trained(self.model if model is None else model, whole)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)


@contextmanager
def _adapters_off(model: torch.nn.Module) -> Iterator[None]:
    """Compute without the adapters of PEFT.

    PEFT's own `disable_adapter` also freezes their weights and thaws them again, after which a
    sharded model no longer counts the token's row among its trained weights.
    """
    layers = [
        module
        for module in model.modules()
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
    ]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


@contextmanager
def _shared_weights(model: torch.nn.Module) -> Iterator[None]:
    """Show that a head and an embedding are one weight, while a model is being sharded.

    PEFT trains rows of both, and each then returns a copy of the weight with its rows in place.
    accelerate compares the two copies and shards the one weight twice, which torch refuses.
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


def _load_trained(model: torch.nn.Module, file: Path) -> None:
    """Load a checkpoint's trained weights into a sharded model, in place; all processes call it.

    torch walks each shared module once, and so misses the second name under which a checkpoint
    has the trained rows of a tied head. The file is a `FULL_STATE_DICT` of accelerate.
    """
    whole = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not weight.requires_grad:
                continue
            if isinstance(weight, DTensor):
                mesh, placements = weight.device_mesh, weight.placements
                own = whole[name].to(weight.device)  # each process takes its own part
                weight.copy_(distribute_tensor(own, mesh, placements, src_data_rank=None))
            else:
                weight.copy_(whole[name])


class StepCallback(TrainerCallback):  # type: ignore[misc]
    """Call a function after each step with its number, the number of steps, and the loss."""

    def __init__(self, on_step: Callable[[int, int, float], None]) -> None:
        """Store the function."""
        self.on_step = on_step

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Call the function with the loss."""
        if logs and "loss" in logs:
            self.on_step(state.global_step, state.max_steps, float(logs["loss"]))


class WatchCallback(TrainerCallback):  # type: ignore[misc]
    """Measure the model before the first step and after the last one; stop without progress.

    transformers' `EarlyStoppingCallback` counts evaluations. Here the number follows from the
    trainer's state, so that a run that was killed while it stopped, stops at the same step.
    """

    def __init__(
        self,
        measure: Callable[[], object],
        every_steps: int,
        file: Path,
        patience: int | None,
    ) -> None:
        """Store the arguments of `MixtureTrainer.watch`."""
        self.measure, self.every_steps, self.file = measure, every_steps, file
        self.patience = patience

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure the untrained model, or resume from a checkpoint's measurements."""
        if state.is_world_process_zero:
            drop_after(self.file, state.global_step if state.global_step else -1)
        state.best_model_checkpoint = self.best_checkpoint(args, state)
        if not state.global_step:
            self.measure()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Evaluate after the last step, too."""
        control.should_evaluate |= state.global_step == state.max_steps

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop after `patience` measurements without progress."""
        control.should_training_stop |= self.stalled(state)

    @staticmethod
    def best_checkpoint(args: Any, state: Any) -> str | None:
        """Return the folder of the best checkpoint, which may have moved since it was saved."""
        best = Path(args.output_dir) / f"checkpoint-{state.best_global_step}"
        return str(best) if state.best_global_step else None

    def stalled(self, state: Any) -> bool:
        """Return whether a state is one at which training stops."""
        since: int = state.global_step - (state.best_global_step or 0)
        return self.patience is not None and since >= self.patience * self.every_steps
