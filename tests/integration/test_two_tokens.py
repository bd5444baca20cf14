"""Two tasks with different tokens in one training: rows, teacher, exports, formats by token."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_llama
from mixtures import pairs
from trained import MARKS, ROWS, logits_of, losses, row, seen_trainers, stop_at, tiny_settings
from transformers import AutoModelForCausalLM, AutoTokenizer
from two_tasks import SECOND, eval_tasks, mixture, two_tasks
from word_models import word_model, word_tokenizer

from delia_data.engines import MockEngine, Request
from delia_data.errors import InputError, SettingsError, TokenError
from delia_data.evaluation import Evaluation, System, evaluate
from delia_data.evaluation.generation import open_adapter_system
from delia_data.mixing import save_mixture
from delia_data.outputs import read_manifest
from delia_data.tokens import render_ids
from delia_data.training import TrainSettings, load_adapter, read_recipe, train
from delia_data.training.adapter import adapter_settings, export_merged, export_parted
from delia_data.training.exporters import write_trainer_files
from delia_data.training.loading import load_prepared, load_prepared_tokenizer
from delia_data.training.prepare import prepare
from delia_data.training.watching import read_watched

pytestmark = MARKS

MakeSettings = Callable[..., TrainSettings]
TOKENS = ("<sep>", SECOND)
BOTH = [
    *ROWS[:3],
    *(row(f"Is {i} odd? {SECOND}", f"({i % 2})", "task") for i in range(3)),
    *ROWS[6:],
]


def ids_of(tokenizer: Any) -> list[list[int]]:
    turns = [[{"role": "user", "content": f"Is 7 even? {token}"}] for token in TOKENS]
    return [render_ids(tokenizer, each, generate=True) for each in turns]


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_each_token_gets_its_own_row(
    make_settings: MakeSettings, tmp_path: Path, tied: bool, packing: bool
) -> None:
    values = {"dtype": "float32", "pairs_loss": "kl", "packing": packing}
    settings = make_settings(tied=tied, token=TOKENS, **values)
    with seen_trainers() as trainers:
        manifest = train(settings, BOTH, tmp_path / "adapter")
    assert manifest.settings["token"] == list(TOKENS)
    assert adapter_settings(tmp_path / "adapter").tokens == TOKENS
    tokenizer = load_prepared_tokenizer(settings)
    before = load_prepared(settings, tokenizer).get_input_embeddings().weight.detach()
    model, same = load_adapter(tmp_path / "adapter")
    after = model.get_input_embeddings().weight.detach()
    ids = [tokenizer.convert_tokens_to_ids(token) for token in TOKENS]
    assert [same.convert_tokens_to_ids(token) for token in TOKENS] == ids
    assert torch.equal(before[ids[0]], before[: ids[0]].mean(0))
    assert torch.allclose(before[ids[1]], before[: ids[1]].mean(0), atol=1e-6)
    moves = [(after[i] - before[i]).abs().max() for i in ids]
    assert min(moves) > 0.05
    assert not torch.allclose(*(after[i] - before[i] for i in ids), atol=0.05)
    others = [i for i in range(len(before)) if i not in ids]
    assert torch.equal(after[others], before[others])
    in_memory = [logits_of(trainers[0].model, [each]) for each in ids_of(tokenizer)]
    export_merged(tmp_path / "adapter", tmp_path / "merged")
    export_parted(tmp_path / "adapter", tmp_path / "parted")
    served = AutoModelForCausalLM.from_pretrained(tmp_path / "parted" / "model")
    served.load_adapter(str(tmp_path / "parted" / "adapter"))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    for wanted, each in zip(in_memory, ids_of(tokenizer), strict=True):
        for other in (model, served, merged):
            assert (logits_of(other, [each]) - wanted).abs().max() < 1e-4
    assert ids_of(AutoTokenizer.from_pretrained(tmp_path / "merged")) == ids_of(tokenizer)


def test_the_teacher_has_no_row_and_a_stopped_training_resumes(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    settings = make_settings(token=TOKENS, pairs_loss="kl", save_every_steps=2)
    pairs_first = [*BOTH[6:], *BOTH[:6]]
    train(settings, pairs_first, tmp_path / "unbroken")
    logged = json.loads((tmp_path / "unbroken" / "losses.json").read_text())
    assert logged[0]["loss_pairs"] == 0, "the model is its own teacher"
    with pytest.raises(KeyboardInterrupt):
        train(settings, pairs_first, tmp_path / "broken", on_step=stop_at(5))
    train(settings, pairs_first, tmp_path / "broken")
    assert losses(tmp_path / "broken") == losses(tmp_path / "unbroken")


def test_a_mixture_of_two_tasks_trains_under_the_names_of_its_tokens(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    tasks = two_tasks(4, 2)
    save_mixture(mixture(tasks, pairs(20), ratio=1), tmp_path / "mixture")
    wide = {"max_length": 512, "epochs": 1}
    with pytest.raises(TokenError, match=f"2 tokens {SECOND}, <sep>.*--token '{SECOND},<sep>'"):
        train(make_settings(**wide), tmp_path / "mixture", tmp_path / "adapter")
    settings = make_settings(token=TOKENS, **wide)
    assert train(settings, tmp_path / "mixture", tmp_path / "adapter").rows["task"] == 8
    open_adapter_system(tmp_path / "adapter", token=SECOND)
    with pytest.raises(TokenError, match=f"trained for <sep>, {SECOND}, and the task's token is"):
        open_adapter_system(tmp_path / "adapter", token="<other>")
    prepare(settings.model, tmp_path / "model", tokens=TOKENS)
    files = write_trainer_files(
        "axolotl", tmp_path / "mixture", tmp_path / "model", tmp_path / "out", settings=settings
    )
    ids = read_manifest(tmp_path / "model").details["token_ids"]
    assert str(sorted(ids.values())[1]) in files.files[-1].read_text()


def test_each_token_is_watched_under_its_own_name(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    values = {"watch_every_steps": 1, "watch_keywords": "json", "epochs": 1}
    settings = tiny_settings(tmp_path / "model", word_model(tokenizer), tokenizer, **values)
    rows = [row(f"is it even ? {token}", "yes", "task") for token in TOKENS]
    train(replace(settings, token=TOKENS), rows, tmp_path / "adapter")
    last = read_watched(tmp_path / "adapter")[-1]
    assert {f"{token}/l2/json/middle" for token in TOKENS} <= last.keys()


def test_settings_of_several_tokens() -> None:
    one, two = (TrainSettings(token=tokens) for tokens in (("<a>",), ("<a>", "<b>")))
    assert (one.token, one.as_dict()["token"], one.tokens) == ("<a>", "<a>", ("<a>",))
    assert two.as_dict()["token"] == ["<a>", "<b>"]
    assert TrainSettings.from_dict(two.as_dict()) == two
    assert read_recipe("smollm2-135m-cpu", {"token": ["<a>", "<b>"]}).tokens == ("<a>", "<b>")
    for wrong in ((), ("<a>", "<a>")):
        with pytest.raises(SettingsError, match="give at least one, each once"):
            TrainSettings(token=wrong)
    with pytest.raises(SettingsError, match="for a single token"):
        replace(two, init="description", description="JSON")


# Which format under which token?


ANSWERS = {
    "<sep>": "{'thought': 'x', 'hallucination': 'no'}",
    SECOND: '{"verdict": "", "fact": ""}',
}


def asked(answer: Callable[[str, int], str], folder: Path, **more: object) -> Evaluation:
    """Evaluate a system that answers by the token asked for, and the number of the request."""
    first, second = eval_tasks(two_tasks(4, 6))
    seen: list[str] = []

    def reply(request: Request) -> str:
        text = request.messages[-1].content
        token = next((token for token in TOKENS if token in text), "")
        seen.append(token)
        return answer(token, seen.count(token)) if token else "Fine."

    system = System(MockEngine(answer=reply), MockEngine(answer=lambda _: "Fine."))
    probes = ("held-out",)
    return evaluate(system, first, folder, probes=probes, pairs=None, others=[second], **more)  # type: ignore[arg-type]


def test_formats_are_counted_under_each_token(tmp_path: Path) -> None:
    right = asked(lambda token, _: ANSWERS[token], tmp_path / "right")
    assert right.confusion == {
        "<sep>": {"<sep>": 6, SECOND: 0, "none": 0},
        SECOND: {"<sep>": 0, SECOND: 6, "none": 0},
    }
    assert right.number("follow").value == 1  # type: ignore[union-attr]
    assert right.rows == {"held-out": 6}, "the other task's rows are in the table alone"

    def one_wins(token: str, number: int) -> str:
        return "Yes." if token == SECOND and number < 3 else ANSWERS["<sep>"]

    mixed = asked(one_wins, tmp_path / "mixed")
    assert mixed.confusion[SECOND] == {"<sep>": 4, SECOND: 0, "none": 2}
    assert Evaluation.from_dict(asdict(mixed)) == mixed
    assert f"| `{SECOND}` | 4 | 0 | 2 |" in (tmp_path / "mixed" / "model_card.md").read_text()


def test_formats_are_counted_under_two_tokens(tmp_path: Path) -> None:
    first, second = eval_tasks(two_tasks(4, 6))
    texts = iter(["", "Fine.", *ANSWERS.values(), "\n".join(ANSWERS.values()), ""])
    asked: list[str] = []

    def reply(request: Request) -> str:
        text = request.messages[-1].content
        if all(token in text for token in TOKENS):
            asked.append(text)
            return next(texts)
        return "Fine."

    def scores(folder: Path, **more: Any) -> Evaluation:
        system = System(MockEngine(answer=reply), MockEngine(answer=lambda _: "Fine."))
        given = {"probes": ("held-out",), "pairs": None, **more}
        return evaluate(system, first, folder, others=[second], **given)

    evaluation = scores(tmp_path / "out")
    [(names, counts)] = evaluation.combined.items()
    assert names == f"{SECOND} <sep>"
    assert counts == {SECOND: 1, "<sep>": 1, "both": 1, "none": 3}
    assert len(asked) == len(set(asked)) == 6, "the held-out rows of one task"
    assert Evaluation.from_dict(asdict(evaluation)) == evaluation
    card = (tmp_path / "out" / "model_card.md").read_text()
    assert f"| `{SECOND}` `<sep>` | 17% | 17% | 17% | 50% | 6 |" in card
    assert scores(tmp_path / "other", reuse=[tmp_path / "out"]).combined == evaluation.combined


def test_tasks_of_one_token_cannot_be_told_apart(tmp_path: Path) -> None:
    first, second = eval_tasks(two_tasks(4, 6))
    engine = MockEngine(answer=lambda _: "Fine.")
    with pytest.raises(InputError, match="give tasks of different tokens"):
        evaluate(engine, first, tmp_path / "out", others=[replace(second, token="<sep>")])
    system = System(engine, tokens=["<sep>"])
    with pytest.raises(TokenError, match=f"trained for <sep>, not for {SECOND}"):
        evaluate(system, first, tmp_path / "out", others=[second])
    assert not (tmp_path / "out").exists()


def test_a_padded_embedding_gets_the_initial_row_too(tmp_path: Path, tiny_tokenizer: Any) -> None:
    """The files of many models have more rows than their vocabulary, with numbers in them."""
    model = tiny_llama(vocabulary=len(tiny_tokenizer) + 8)
    settings = tiny_settings(tmp_path / "model", model, tiny_tokenizer, token=TOKENS)
    tokenizer = load_prepared_tokenizer(replace(settings, dtype="float32"))
    weight = (
        load_prepared(replace(settings, dtype="float32"), tokenizer).get_input_embeddings().weight
    )
    for token_id in tokenizer.convert_tokens_to_ids(list(TOKENS)):
        assert torch.allclose(weight[token_id], weight[:token_id].mean(0), atol=1e-6)
