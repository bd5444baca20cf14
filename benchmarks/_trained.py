"""Train for a few steps, and print the speed, losses and memory as JSON on the last line.

    python -m benchmarks._trained MIXTURE WAY --dtype float32 --steps 8 ...

The first steps are not timed, because the allocator and the kernels warm up.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

__all__ = ["PEAK_FLOPS", "WAYS", "card_peak", "main", "model_flops"]

WAYS: Final = {
    "delia_data": "delia train",
    "delia_data-kl": "delia train, pairs_loss kl",
    "trl": "SFTTrainer, defaults",
    "trl-kept": "SFTTrainer, no checkpointing",
}
"""Titles of the trainers by their names on the command line."""

PEAK_FLOPS: Final = {
    "B200": 2250e12,
    "H200": 989e12,
    "H200 NVL": 835e12,
    "H100": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "A100": 312e12,
    "A10": 125e12,
    "A10G": 70e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
}
"""Dense bfloat16 peaks of cards, from their data sheets, by a part of their names."""

_RANK: Final = 16


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and print the result."""
    parser = argparse.ArgumentParser("python -m benchmarks._trained", description=__doc__)
    parser.add_argument("mixture", type=Path)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], required=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--settle", type=int, required=True, help="first steps that are not timed")
    parser.add_argument("--micro-batch-tokens", type=int)
    given = parser.parse_args(arguments)
    print(json.dumps(_train(given)), flush=True)


def _train(given: argparse.Namespace) -> dict[str, Any]:
    import torch
    import transformers

    from delia_data.models import quiet
    from delia_data.training.data import encode_rows, open_training_rows
    from delia_data.training.loading import load_prepared, load_prepared_tokenizer, resolve
    from delia_data.training.settings import TrainSettings

    settings = TrainSettings(
        model=given.model,
        rank=_RANK,
        targets=("all-linear",),
        dropout=0.0,
        batch_size=given.batch,
        max_length=given.length,
        truncate=True,
        dtype=given.dtype,
        device=given.device,
        micro_batch_tokens=given.micro_batch_tokens,
    )
    settings = resolve(settings, rows=given.batch * given.steps)
    tokenizer = load_prepared_tokenizer(settings)
    rows = encode_rows(open_training_rows(given.mixture), tokenizer, settings)
    count = min(len(rows.dataset), given.batch * given.steps)
    dataset = rows.dataset.select(range(count))
    model = load_prepared(settings, tokenizer)
    clock = _Clock(given.settle, given.device)
    with tempfile.TemporaryDirectory() as folder, quiet():
        trainer = _trainer(given, settings, model, tokenizer, dataset, folder)
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.add_callback(clock)
        base = trainer.model.get_base_model()
        _reset_peak(given.device)
        trainer.train()
        peak = _peak_mib(given.device)
    card = torch.cuda.get_device_name() if given.device == "cuda" else None
    lengths = [len(ids) for ids in dataset["input_ids"]]
    labeled = [sum(label != -100 for label in labels) for labels in dataset["labels"]]
    begin = given.settle * given.batch
    tokens, answers = sum(lengths[begin:]), sum(labeled[begin:])
    flops = model_flops(base, lengths[begin:], answers)
    return {
        "tokens": tokens,
        "labeled": answers,
        "padded_to": _padded(lengths[begin:], given.batch),
        "seconds": clock.seconds,
        "cpu_seconds": clock.cpu_seconds,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "peak_mib": peak,
        "flops": flops,
        "peak_flops": card_peak(card) if card and given.dtype == "bfloat16" else None,
        "card": card,
        "threads": torch.get_num_threads(),
    }


def _trainer(
    given: argparse.Namespace, settings: Any, model: Any, tokenizer: Any, dataset: Any, folder: str
) -> Any:
    import torch
    import trl

    from delia_data.training.loading import lora_config
    from delia_data.training.trainer import MixtureTrainer

    lora = lora_config(settings, model, int(tokenizer.convert_tokens_to_ids(settings.token)))
    options: dict[str, Any] = {
        "output_dir": folder,
        "per_device_train_batch_size": given.batch,
        "num_train_epochs": 1,
        "max_length": given.length,
        "learning_rate": 2e-4,
        "lr_scheduler_type": "constant",
        "train_sampling_strategy": "sequential",  # all trainers take the same rows in each step
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": given.device == "cpu",
        "seed": 0,
    }
    common = {"model": model, "processing_class": tokenizer, "train_dataset": dataset}
    if given.way.startswith("delia_data"):
        options |= {"bf16": False, "gradient_checkpointing": settings.gradient_checkpointing}
        args, tokens = trl.SFTConfig(**options), settings.micro_batch_tokens
        common["pairs_loss"] = "kl" if given.way == "delia_data-kl" else "ce"
        common["token_id"] = int(tokenizer.convert_tokens_to_ids(settings.token))
        return MixtureTrainer(args=args, peft_config=lora, micro_batch_tokens=tokens, **common)
    if given.dtype == "float32":
        options["bf16"] = False
    if given.way == "trl-kept":
        options["gradient_checkpointing"] = False
    common["train_dataset"] = dataset.remove_columns("is_task")
    trainer = trl.SFTTrainer(args=trl.SFTConfig(**options), peft_config=lora, **common)
    head = trainer.model.get_base_model().get_output_embeddings()
    if not isinstance(head, torch.nn.Linear):
        head.register_parameter("bias", None)  # TRL 1.16 requires it
    return trainer


class _Clock:
    """Callback that measures the time of the steps after the first ones."""

    def __new__(cls, settle: int, device: str) -> Any:
        from transformers import TrainerCallback

        class Clock(TrainerCallback):  # type: ignore[misc]
            seconds = cpu_seconds = 0.0

            def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
                if device == "cuda":
                    import torch

                    torch.cuda.synchronize()
                if state.global_step == settle:
                    self.began = time.perf_counter(), time.process_time()
                elif state.global_step > settle:
                    self.seconds = time.perf_counter() - self.began[0]
                    self.cpu_seconds = time.process_time() - self.began[1]

            def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
                self.began = time.perf_counter(), time.process_time()

        return Clock()


def model_flops(model: Any, lengths: Sequence[int], labeled: int) -> float:
    """Return the FLOPs of training: forward pass, gradients of inputs, and causal attention.

    Frozen weights need no gradient of their own, which would add half as much. The head is counted
    only at labels.

    Args:
        model: Model without its adapter.
        lengths: Tokens of each row.
        labeled: Number of labeled tokens.
    """
    config = model.config.get_text_config()
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    excluded = {id(weight) for end in ends for weight in end.parameters()}
    weights = sum(each.numel() for each in model.parameters() if id(each) not in excluded)
    head = config.vocab_size * config.hidden_size
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    states = config.num_hidden_layers * config.num_attention_heads * width
    # Two products of (length, length / 2) in the forward pass, four in the backward pass.
    attention = sum(12 * states * length * length / 2 for length in lengths)
    return float(4 * weights * sum(lengths) + 4 * head * labeled + attention)


def _padded(lengths: Sequence[int], batch: int) -> int:
    """Return the number of tokens in batches padded to their longest row."""
    parts = [lengths[begin : begin + batch] for begin in range(0, len(lengths), batch)]
    return sum(len(part) * max(part) for part in parts)


def card_peak(name: str) -> float | None:
    """Return the bfloat16 peak of a card by its name; None if it is unknown."""
    matches = sorted((card for card in PEAK_FLOPS if card in name), key=len)
    return PEAK_FLOPS[matches[-1]] if matches else None


def _reset_peak(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mib(device: str) -> float:
    """Return the peak memory in MiB since the reset."""
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
