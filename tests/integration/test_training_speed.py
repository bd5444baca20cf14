"""Packed training has the losses and gradients of plain training, and nothing crosses rows."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import trl
from conftest import tiny_llama
from datasets import Dataset
from torch.nn.functional import cross_entropy, kl_div
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
)

from delia_data.models import quiet
from delia_data.training import PairsKL
from delia_data.training.loss import (
    Teacher,
    frozen_head_loss,
    give_losses,
    head_loss,
    read_rows_in_place,
)
from delia_data.training.packing import IGNORED, pack_rows, packed_attention, pad_rows
from delia_data.training.trainer import MixtureTrainer

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

VOCABULARY, TOKEN = 262, 261


def make_rows(lengths: tuple[int, ...] = (5, 9, 12, 7, 6, 8, 30)) -> list[dict[str, Any]]:
    """Return random rows; those of odd length are task rows and name the token."""
    generator = torch.Generator().manual_seed(1)
    rows = []
    for length in lengths:
        ids = torch.randint(5, 260, (length,), generator=generator).tolist()
        if length % 2:
            ids[1] = TOKEN
        labels = [IGNORED] * 3 + ids[3:]
        rows.append({"input_ids": ids, "labels": labels, "is_task": length % 2 == 1})
    return rows


def train(
    kind: type[trl.SFTTrainer],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    rows: list[dict[str, Any]] | None = None,
    **more: Any,
) -> tuple[list[dict[str, float]], trl.SFTTrainer]:
    """Train two epochs in batches of three; return the log of each step, and the trainer."""
    options = more.pop("options", {})
    config = trl.SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=more.pop("micro_batch_size", 3),
        num_train_epochs=2,
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **({"bf16": False, "gradient_checkpointing": False, "learning_rate": 1e-2} | options),
    )
    lora = peft.LoraConfig(
        r=4,
        target_modules="all-linear",
        trainable_token_indices={"embed_tokens": [TOKEN]},
        task_type="CAUSAL_LM",
    )
    with quiet():
        trainer = kind(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(rows or make_rows()),
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=[Gradients()],
            **more,
        )
        head = trainer.model.get_base_model().get_output_embeddings()
        if kind is trl.SFTTrainer and not isinstance(head, torch.nn.Linear):
            head.register_parameter("bias", None)  # TRL 1.16 asks PEFT's wrapper for it
        trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry], trainer


class Gradients(TrainerCallback):
    """Keep the gradients of every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        trained = (pair for pair in given["model"].named_parameters() if pair[1].requires_grad)
        self.steps.append({name: weight.grad.clone() for name, weight in trained})


def gradients(trainer: trl.SFTTrainer) -> list[dict[str, torch.Tensor]]:
    callbacks = trainer.callback_handler.callbacks
    return next(each.steps for each in callbacks if isinstance(each, Gradients))


def figures(logged: list[dict[str, float]]) -> list[float]:
    return [entry[name] for entry in logged for name in ("loss", "grad_norm")]


WAYS = {
    "padded": {},
    "padded, two at once": {"micro_batch_size": 2, "batch_size": 3},
    "packed": {"micro_batch_tokens": 1000},
    "packed, a few tokens at once": {"micro_batch_tokens": 14},
    "packed, computed again": {
        "micro_batch_tokens": 14,
        "options": {"gradient_checkpointing": True},
    },
}


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_losses_and_gradients_equal_those_of_the_plain_trainer(
    tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path, tied: bool, attention: str
) -> None:
    def model() -> PreTrainedModel:
        made = tiny_llama(vocabulary=VOCABULARY, tied=tied)
        made.set_attn_implementation(attention)
        return made

    plain, usual = train(trl.SFTTrainer, model(), tiny_tokenizer, tmp_path)
    assert len(plain) == 6
    for name, options in WAYS.items():
        logged, trainer = train(MixtureTrainer, model(), tiny_tokenizer, tmp_path, **options)
        assert figures(logged) == pytest.approx(figures(plain), abs=2e-5), name
        first = zip(gradients(usual)[0].items(), gradients(trainer)[0].items(), strict=True)
        for (key, wanted), (same, slope) in first:
            assert key == same
            assert torch.allclose(slope, wanted, atol=1e-6), (name, key)


def test_packing_does_not_change_the_rows_of_a_step(
    tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """The sums by source of each step are computed from the losses of the untrained model."""
    rows = make_rows()
    model = tiny_llama(vocabulary=VOCABULARY)
    with torch.no_grad():
        each = [
            cross_entropy(
                model(torch.tensor([row["input_ids"]])).logits[0, 2:-1],
                torch.tensor(row["input_ids"][3:]),
                reduction="none",
            )
            for row in rows
        ]
    for options in ({}, {"micro_batch_tokens": 20}):
        logged, _ = train(
            MixtureTrainer,
            tiny_llama(vocabulary=VOCABULARY),
            tiny_tokenizer,
            tmp_path,
            options={"learning_rate": 0.0},
            **options,
        )
        for step, entry in enumerate(logged):
            mine = list(zip(rows, each, strict=True))[step % 3 * 3 : step % 3 * 3 + 3]
            for name, of_task in (("loss_task", True), ("loss_pairs", False)):
                parts = [loss for row, loss in mine if row["is_task"] is of_task]
                if parts:
                    assert entry[name] == pytest.approx(float(torch.cat(parts).mean()), abs=1e-4)
                else:
                    assert name not in entry
            whole = torch.cat([loss for _, loss in mine])
            assert entry["loss"] == pytest.approx(float(whole.mean()), abs=1e-4)


@pytest.mark.parametrize("packed", [True, False])
def test_logits_are_computed_only_at_labels(
    tiny_tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    packed: bool,
) -> None:
    computed: list[int] = []

    def counted(states: torch.Tensor, *args: Any, **given: Any) -> Any:
        computed.append(len(states))
        return frozen_head_loss(states, *args, **given)

    monkeypatch.setattr("delia_data.training.loss.frozen_head_loss", counted)
    rows = make_rows()
    options = {"micro_batch_tokens": 1000} if packed else {}
    model = tiny_llama(vocabulary=VOCABULARY)
    train(MixtureTrainer, model, tiny_tokenizer, tmp_path, rows=rows, **options)
    labeled = [len(row["input_ids"]) - 3 for row in rows]
    steps = [sum(labeled[begin : begin + 3]) for begin in (0, 3, 6)]
    assert computed == steps * 2


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_never_crosses_rows(attention: str) -> None:
    """When other rows change, the states of a row do not change by one bit."""
    model = tiny_llama(vocabulary=VOCABULARY)
    model.set_attn_implementation(attention)
    before, middle, after = make_rows((6, 9, 5))
    other, last = make_rows((6, 9, 6, 11))[2:]

    def states(*rows: dict[str, Any]) -> torch.Tensor:
        batch = pack_rows(rows)
        del batch["labels"], batch["is_task"]
        with torch.no_grad(), packed_attention(model):
            return model.model(**batch, use_cache=False).last_hidden_state[0]

    here = states(before, middle, after)[6:15]
    assert torch.equal(here, states(other, middle, last)[6:15])
    assert not torch.equal(here, states(before, {**middle, **last}, after)[6:15])
    with torch.no_grad():
        alone = model.model(torch.tensor([middle["input_ids"]])).last_hidden_state[0]
    assert torch.allclose(here, alone, atol=1e-6)
    assert model.config._attn_implementation == attention


def test_a_sliding_window_holds_within_packed_rows() -> None:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=4,
    )
    model = MistralForCausalLM(config).eval()
    rows = make_rows((9, 3, 12))
    batch = pack_rows(rows)
    del batch["labels"], batch["is_task"]
    with torch.no_grad():
        with packed_attention(model):
            packed = model.model(**batch, use_cache=False).last_hidden_state[0]
        alone = [model.model(torch.tensor([row["input_ids"]])).last_hidden_state[0] for row in rows]
    assert torch.allclose(packed, torch.cat(alone), atol=1e-6)


def test_a_model_that_scales_its_logits_keeps_doing_so() -> None:
    """Gemma 2 caps its logits and has its own attention."""
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        final_logit_softcapping=0.5,
        attn_implementation="eager",
    )
    model = Gemma2ForCausalLM(config)
    rows = make_rows((9, 4, 12))
    logits = [model(torch.tensor([row["input_ids"]])).logits[0, 2:-1].float() for row in rows]
    wanted = [
        cross_entropy(row, torch.tensor(r["input_ids"][3:]), reduction="none")
        for row, r in zip(logits, rows, strict=True)
    ]
    give_losses(model)
    for batch in (pack_rows(rows), pad_rows(rows, 4)):
        del batch["is_task"]
        with packed_attention(model):
            total, losses = model(**batch, use_cache=False)
        assert torch.allclose(losses, torch.cat(wanted), atol=1e-5)
        assert float(total) == pytest.approx(float(torch.cat(wanted).sum()), rel=1e-5)


@pytest.mark.parametrize("block", [2**26, 4 * 50 * 3])
def test_a_frozen_head_gives_the_gradients_of_the_plain_loss(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setitem(
        frozen_head_loss.__globals__["_BLOCK_BYTES"], "cpu", block
    )  # three positions at a time
    torch.manual_seed(0)
    hidden = torch.randn(11, 8, requires_grad=True)
    rows = torch.randn(2, 8, requires_grad=True)
    head, bias = torch.randn(50, 8), torch.randn(50)
    targets = torch.tensor([0, 7, 49, 7, 3, 49, 1, 2, 49, 5, 6])
    whole = head.index_copy(0, torch.tensor([49, 7]), rows)
    plain = cross_entropy(hidden @ whole.T + bias, targets, reduction="none")
    (3 * plain.sum()).backward()
    wanted = [hidden.grad.clone(), rows.grad.clone()]
    hidden.grad = rows.grad = None
    total, losses = frozen_head_loss(hidden, head, targets, rows=rows, row_ids=[49, 7], bias=bias)
    (3 * total).backward()
    assert torch.allclose(losses, plain.detach(), atol=1e-5)
    assert torch.allclose(hidden.grad, wanted[0], atol=1e-5)
    assert torch.allclose(rows.grad, wanted[1], atol=1e-5)

    linear = torch.nn.Linear(8, 50)
    again, each = head_loss(hidden, linear, targets)
    again.backward()
    ours = linear.weight.grad.clone()
    linear.weight.grad = None
    plain = cross_entropy(linear(hidden), targets, reduction="sum")
    plain.backward()
    assert torch.allclose(ours, linear.weight.grad, atol=1e-5)
    assert float(each.sum()) == pytest.approx(float(plain), rel=1e-5)


# KL of pairs (docs/guides/training.md)


class PlainKL(PairsKL, trl.SFTTrainer):
    """TRL's trainer with the loss of pairs in its plain form."""


def with_token(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    tokenizer.add_tokens(["<sep>"], special_tokens=True)
    assert tokenizer.convert_tokens_to_ids("<sep>") == TOKEN
    return tokenizer


KL = {"token_ids": [TOKEN], "pairs_loss": "kl"}


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_kl_of_pairs_equals_that_of_a_plain_loop(
    tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path, tied: bool
) -> None:
    tokenizer = with_token(tiny_tokenizer)
    model = functools.partial(tiny_llama, vocabulary=VOCABULARY, tied=tied)
    plain, usual = train(PlainKL, model(), tokenizer, tmp_path)
    for name, options in WAYS.items():
        logged, trainer = train(MixtureTrainer, model(), tokenizer, tmp_path, **options, **KL)
        assert figures(logged) == pytest.approx(figures(plain), abs=2e-5), name
        # The third step holds pairs alone. Adam turns rounding into whole steps of weights whose
        # gradient is nearly 0, so later steps agree less closely.
        for key, slope in gradients(trainer)[2].items():
            wanted = gradients(usual)[2][key]
            assert (slope - wanted).norm() <= 0.02 * wanted.norm(), (name, key)
    assert logged[-1]["loss_pairs"] > 1e-4, "the trained model differs from its teacher by now"


@pytest.mark.parametrize("packed", [True, False])
def test_a_pair_has_no_gradient_before_the_first_step(
    tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path, packed: bool
) -> None:
    """The model is its own teacher, for any text of the pair."""
    rows = [row for row in make_rows() if not row["is_task"]]
    options = {"micro_batch_tokens": 1000} if packed else {}
    model = tiny_llama(vocabulary=VOCABULARY)
    logged, trainer = train(
        MixtureTrainer, model, tiny_tokenizer, tmp_path, rows=rows, **options, **KL
    )
    assert [entry["loss"] for entry in logged] == [0.0] * len(logged)
    assert all(not slope.any() for step in gradients(trainer) for slope in step.values())


def test_a_contrast_row_is_taught_after_its_own_prompt(
    tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """A row is compared with its teacher's answer to the teacher's prompt."""
    row = {"input_ids": [7, TOKEN, 8, 9, 10], "labels": [IGNORED] * 3 + [9, 10], "is_task": False}
    divergences = []
    for prompt in ([7, TOKEN, 8], [7, 8]):
        model = tiny_llama(vocabulary=VOCABULARY)
        with torch.no_grad():
            after = model(torch.tensor([[7, TOKEN, 8, 9, 10]])).logits[0, 2:-1]
            wanted = model(torch.tensor([[*prompt, 9, 10]])).logits[0, len(prompt) - 1 : -1]
            for logits in (after, wanted):
                logits[:, TOKEN] = -torch.inf
            wanted, after = wanted[:, :TOKEN].log_softmax(1), after[:, :TOKEN].log_softmax(1)
            divergences.append(float((wanted.exp() * (wanted - after)).sum(1).mean()))
        rows = [{**row, "teacher_prompt": prompt}]
        options = {"learning_rate": 0.0}
        logged, _ = train(
            MixtureTrainer, model, tiny_tokenizer, tmp_path, rows=rows, options=options, **KL
        )
        assert logged[0]["loss_pairs"] == pytest.approx(divergences[-1], abs=1e-6)
    assert divergences[0] == 0 and divergences[1] > 1e-4


@pytest.mark.parametrize("block", [2**26, 4 * 50 * 3])
def test_the_divergence_from_a_known_distribution(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setitem(frozen_head_loss.__globals__["_BLOCK_BYTES"], "cpu", block)
    torch.manual_seed(0)
    hidden, states = torch.randn(11, 8, requires_grad=True), torch.randn(11, 8)
    head, bias = torch.randn(50, 8), torch.randn(50)
    left = [i for i in range(50) if i not in (3, 49)]
    own = (hidden @ head.T + bias)[:, left].log_softmax(1)
    wanted = (states @ head.T + bias)[:, left].log_softmax(1)
    plain = kl_div(own, wanted, log_target=True, reduction="none").sum(1)
    (3 * plain.sum()).backward()
    slope, hidden.grad = hidden.grad.clone(), None
    row = torch.randn(8, requires_grad=True)
    total, losses = frozen_head_loss(
        hidden, head, Teacher(states), bias=bias, rows=row[None], row_ids=[49], masked_ids=[3, 49]
    )
    (3 * total).backward()
    assert torch.allclose(losses, plain.detach(), atol=1e-5)
    assert torch.allclose(hidden.grad, slope, atol=1e-5)
    assert not row.grad.any()

    linear, own_head = torch.nn.Linear(8, 50), torch.nn.Linear(8, 50)
    with torch.no_grad():
        own_head.weight[:], own_head.bias[:] = head, bias
    again, each = head_loss(hidden, linear, Teacher(states, own_head), masked_ids=[3, 49])
    again.backward()
    assert linear.weight.grad[:49].any() and not linear.weight.grad[49].any()
    own = linear(hidden)[:, left].log_softmax(1)
    plain = kl_div(own, wanted, log_target=True, reduction="none").sum(1)
    assert torch.allclose(each, plain, atol=1e-5)


def test_trained_rows_read_in_place_equal_those_of_peft() -> None:
    lora = peft.LoraConfig(
        target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [TOKEN, 7]}
    )
    model = peft.get_peft_model(tiny_llama(vocabulary=VOCABULARY), lora)
    embedding = model.get_base_model().get_input_embeddings()
    rows = next(p for n, p in model.named_parameters() if "trainable_tokens" in n)
    with torch.no_grad():
        rows += torch.randn_like(rows)
    ids = torch.tensor([[3, TOKEN, 7, 7], [TOKEN, 1, 2, 3]])
    slopes = torch.randn(2, 4, 32)

    def values_and_slopes() -> tuple[torch.Tensor, torch.Tensor]:
        rows.grad = None
        values = embedding(ids)
        (values * slopes).sum().backward()
        return values.detach(), rows.grad.clone()

    wanted = values_and_slopes()
    read_rows_in_place(model)
    got = values_and_slopes()
    assert torch.equal(got[0], wanted[0])
    assert torch.allclose(got[1], wanted[1], atol=1e-6)
    with model.disable_adapter():
        base = embedding(ids)
    assert not torch.equal(base, got[0])
    assert torch.equal(base[0, 0], got[0][0, 0])


@pytest.mark.parametrize("packed", [True, False])
def test_the_noise_of_a_row_is_the_same_packed_or_padded(
    tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path, packed: bool
) -> None:
    """transformers' own noise, whose bound falls with the length of a sequence (NEFTune)."""
    seen: list[float] = []

    class Measured(MixtureTrainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **given: Any) -> Any:
            embedding = model.get_input_embeddings().eval()
            plain = embedding(inputs["input_ids"]).detach()
            embedding.train()
            hook = embedding.register_forward_hook(
                lambda module, ids, embedded: seen.append(float((embedded - plain).abs().max()))
            )
            try:
                return super().compute_loss(model, inputs, *args, **given)
            finally:
                hook.remove()

    model = tiny_llama(vocabulary=VOCABULARY)
    rows = make_rows((40,) * 8)
    train(
        Measured,
        model,
        tiny_tokenizer,
        tmp_path,
        rows=rows,
        micro_batch_tokens=1_000 if packed else None,
        options={"neftune_noise_alpha": 5.0},
    )
    bound = 5.0 / (40 * model.config.hidden_size) ** 0.5
    assert seen
    assert all(0.9 * bound < value <= bound * (1 + 1e-5) for value in seen)
