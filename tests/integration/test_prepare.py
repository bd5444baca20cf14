"""A model folder with the token in it: random tiny models of every kind, and the embedded one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Delia, refused
from conftest import tiny_llama
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from delia_data.errors import (
    ForeignFolderError,
    InputError,
    LockedError,
    SettingsError,
    TokenError,
    UnfinishedError,
)
from delia_data.models import DEFAULT_MODEL, identify_files, load_model, load_tokenizer, quiet
from delia_data.outputs import folder_lock, is_finished, read_manifest
from delia_data.tokens import add_token, has_generation_marks, render_ids
from delia_data.training.data import mismatched_sources
from delia_data.training.prepare import prepare, prepared_from

pytestmark = pytest.mark.integration

Make = Callable[..., Path]
KILLED = """
import os, signal, sys
from transformers import PreTrainedTokenizerFast
from delia_data.training.data import mismatched_sources
from delia_data.training.prepare import prepare

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

PreTrainedTokenizerFast.save_pretrained = die
prepare(sys.argv[1], sys.argv[2])
"""


@pytest.fixture
def make(tmp_path: Path, make_tiny_tokenizer: Callable[[], PreTrainedTokenizerBase]) -> Make:
    """Write the folder of a random tiny model."""

    def make(
        name: str = "model", *, template: bool = True, dtype: Any = torch.float32, **kind: Any
    ) -> Path:
        folder = tmp_path / name
        with quiet():
            tiny_llama(**kind).to(dtype).save_pretrained(folder)
        tokenizer = make_tiny_tokenizer()
        if not template:
            tokenizer.chat_template = None
        tokenizer.save_pretrained(folder)
        return folder

    return make


def load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model like other scripts."""
    return (AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("vocabulary", [261, 300], ids=["exact", "padded"])
def test_the_row_is_where_the_id_points(
    make: Make, tmp_path: Path, vocabulary: int, tied: bool
) -> None:
    """Input and output alike, and nothing else is touched."""
    base = make(vocabulary=vocabulary, tied=tied)
    manifest = prepare(base, tmp_path / "out")
    before, _ = load(base)
    after, tokenizer = load(tmp_path / "out")
    assert tokenizer.encode("as <sep> says", add_special_tokens=False).count(261) == 1
    assert manifest.details["token_ids"] == {"<sep>": 261}
    assert manifest.details["tied"] == tied
    assert manifest.details["embedding"] == [max(262, vocabulary), 32]
    assert after.config.vocab_size == max(262, vocabulary)
    for of in ("get_input_embeddings", "get_output_embeddings"):
        old, new = (getattr(model, of)().weight.detach() for model in (before, after))
        assert torch.allclose(new[261], old[:261].mean(0), atol=1e-6)
        assert torch.equal(new[:261], old[:261])
        assert torch.equal(new[262:vocabulary], old[262:vocabulary])
    same = set(before.state_dict()) - {"model.embed_tokens.weight", "lm_head.weight"}
    assert all(torch.equal(before.state_dict()[n], after.state_dict()[n]) for n in same)
    prompt = torch.tensor([[5, 6, 7]])
    old_logits, new_logits = before(prompt).logits[..., :261], after(prompt).logits[..., :261]
    assert torch.allclose(old_logits, new_logits, atol=1e-6)


def test_the_folder_has_all_that_a_script_needs(make: Make, tmp_path: Path) -> None:
    base = make()
    GenerationConfig(eos_token_id=[0, 4], max_new_tokens=7).save_pretrained(base)
    prepare(base, tmp_path / "out")
    _, tokenizer = load(tmp_path / "out")
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(base).chat_template
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == [0, 4]
    manifest = read_manifest(tmp_path / "out", verify=True)
    assert manifest.kind == "model"
    assert {"model.safetensors", "tokenizer.json", "config.json"} <= set(manifest.files)
    assert not [path for path in (tmp_path / "out").iterdir() if path.suffix == ".part"]
    ids = render_ids(tokenizer, [{"role": "user", "content": "as <sep>"}], generate=True)
    assert ids.count(261) == 1


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("auto", torch.bfloat16), ("float32", torch.float32), ("float16", torch.float16)],
)
def test_the_type_of_the_weights(make: Make, tmp_path: Path, dtype: Any, expected: Any) -> None:
    prepare(make(dtype=torch.bfloat16), tmp_path / "out", dtype=dtype)
    assert load(tmp_path / "out")[0].dtype == expected


def test_initializations_are_those_of_add_token(
    make: Make, tmp_path: Path, make_tiny_tokenizer: Any
) -> None:
    ways: list[dict[str, Any]] = [
        {"init": "mean"},
        {"init": "normal", "seed": 3},
        {"init": "description", "description": "a JSON object"},
    ]
    rows = []
    for number, way in enumerate(ways):
        prepare(make(), tmp_path / str(number), **way)
        model, tokenizer = tiny_llama(), make_tiny_tokenizer()
        add_token(model, tokenizer, **way)
        row = load(tmp_path / str(number))[0].get_input_embeddings().weight.detach()[261]
        assert torch.equal(row, model.get_input_embeddings().weight.detach()[261])
        rows.append(row)
    assert len({tuple(row.tolist()) for row in rows}) == 3


def test_several_tokens(make: Make, tmp_path: Path) -> None:
    tokens = ["<sep:json>", "<sep:table>"]
    manifest = prepare(make(), tmp_path / "out", tokens=tokens, init="normal")
    assert manifest.details["token_ids"] == {"<sep:json>": 261, "<sep:table>": 262}
    model, tokenizer = load(tmp_path / "out")
    assert tokenizer.encode("".join(tokens), add_special_tokens=False) == [261, 262]
    weight = model.get_input_embeddings().weight.detach()
    assert not torch.equal(weight[261], weight[262])


def test_a_rerun_changes_nothing_and_another_model_is_refused(make: Make, tmp_path: Path) -> None:
    base, out = make(), tmp_path / "out"
    first = prepare(base, out)
    times = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert prepare(base, out) == first
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == times
    with pytest.raises(SettingsError, match="init was 'mean' and is now 'normal'"):
        prepare(base, out, init="normal")
    other = make("other", tied=False)
    with pytest.raises(SettingsError, match="weights was"):
        prepare(other, out)
    assert is_finished(out)


def test_a_killed_run_leaves_no_whole_model_and_starts_over(make: Make, tmp_path: Path) -> None:
    base, out = make(), tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(base), str(out)]
    done = subprocess.run(command, capture_output=True, timeout=600, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in out.iterdir() if not path.name.startswith(".")] == []
    with pytest.raises(UnfinishedError):
        read_manifest(out)
    assert prepare(base, out) == prepare(base, tmp_path / "unbroken")
    assert sorted(p.name for p in out.iterdir()) == sorted(
        p.name for p in (tmp_path / "unbroken").iterdir()
    )


def test_a_foreign_or_busy_folder_is_left_alone(make: Make, tmp_path: Path) -> None:
    base, out = make(), tmp_path / "out"
    with pytest.raises(ForeignFolderError):
        prepare(base, base)
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ForeignFolderError):
        prepare(base, out)
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
    (out / "notes.txt").unlink()
    with folder_lock(out), pytest.raises(LockedError):
        prepare(base, out)


@pytest.mark.parametrize(
    ("given", "error", "reason"),
    [
        ({"init": "zeros"}, InputError, "init 'zeros' is unknown"),
        ({"init": "description"}, InputError, "needs a description"),
        ({"description": "JSON"}, InputError, "is for init 'description'"),
        ({"dtype": "int8"}, InputError, "dtype 'int8' is unknown"),
        ({"tokens": []}, InputError, "give at least one"),
        ({"tokens": ["<a>", "<a>"]}, InputError, "each once"),
        ({"tokens": ["<|end|>"]}, TokenError, "another role"),
        ({"generation_marks": True}, InputError, "no generation marks"),
    ],
)
def test_wrong_arguments(
    make: Make, tmp_path: Path, given: Any, error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        prepare(make(), tmp_path / "out", **given)
    assert not is_finished(tmp_path / "out")


def test_models_that_are_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no chat template"):
        prepare(make(template=False), tmp_path / "out")
    with pytest.raises(InputError, match="cannot be loaded"):
        prepare(tmp_path / "nothing", tmp_path / "out")


def test_a_prepared_model_is_the_model_that_wrote_the_pairs(make: Make, tmp_path: Path) -> None:
    base = make()
    assert prepared_from(base) is None
    assert prepared_from("org/name") is None
    prepare(base, tmp_path / "out")
    writer = identify_files(base, load_tokenizer(base))
    assert prepared_from(tmp_path / "out") == writer
    tokenizer = load_tokenizer(tmp_path / "out")
    assert mismatched_sources({"cache": writer}, str(tmp_path / "out"), tokenizer) == []
    other = {**writer, "weights_sha256": "0" * 64}
    assert len(mismatched_sources({"cache": other}, str(tmp_path / "out"), tokenizer)) == 1


def test_template_options_become_defaults_of_the_template(make: Make, tmp_path: Path) -> None:
    base = make()
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template += "{% if short %}Be brief.{% endif %}"
    tokenizer.save_pretrained(base)
    writer = identify_files(base, load_tokenizer(base, {"short": True}))
    prepare(base, tmp_path / "out", template_options={"short": True})
    turns = [{"role": "user", "content": "Who?"}]
    plain = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert str(plain.apply_chat_template(turns, tokenize=False)).endswith("Be brief.")
    own = load_tokenizer(tmp_path / "out")
    assert mismatched_sources({"cache": writer}, str(tmp_path / "out"), own) == []
    without = {name: value for name, value in writer.items() if name != "template_options"}
    (line,) = mismatched_sources({"cache": without}, str(tmp_path / "out"), own)
    assert "sampled with no template options" in line
    with pytest.raises(SettingsError):
        prepare(base, tmp_path / "out")


def test_the_command(delia: Delia, make: Make, tmp_path: Path) -> None:
    base, out = make(), tmp_path / "out"
    shown = delia("prepare", base, out, "--token", "<x>", "--token", "<y>", "--json")
    assert json.loads(shown.out)["details"]["token_ids"] == {"<x>": 261, "<y>": 262}
    assert (shown.code, shown.err) == (0, "")
    again = delia("prepare", base, out, "--token", "<x>", "--token", "<y>")
    assert (
        again.out == f"<x> is id 261, <y> is id 262; --model_name_or_path {out} works in any "
        "script\n"
    )
    refused(delia("prepare", base, out), "was begun with other settings")
    refused(delia("prepare", base, base), "holds something else")
    refused(delia("prepare", base, tmp_path / "b", "--init", "description"), "needs a description")


def test_the_embedded_model_with_marks(tmp_path: Path) -> None:
    """The template writes the same as before, and TRL finds marks in it."""
    prepare(DEFAULT_MODEL, tmp_path / "out", generation_marks=True)
    model, tokenizer = load(tmp_path / "out")
    own = load_tokenizer(DEFAULT_MODEL)
    before = load_model(DEFAULT_MODEL).get_input_embeddings().weight.detach()
    assert has_generation_marks(tokenizer.chat_template)
    assert not has_generation_marks(own.chat_template)
    turns = [{"role": "user", "content": " Who? "}, {"role": "assistant", "content": "I. "}]
    for chat in (turns, [{"role": "system", "content": "Be brief."}, *turns]):
        assert tokenizer.apply_chat_template(chat, tokenize=False) == own.apply_chat_template(
            chat, tokenize=False
        )
    assert model.dtype == torch.bfloat16
    row = model.get_input_embeddings().weight.detach()[49152]
    assert torch.equal(row, before.float().mean(0).bfloat16())
