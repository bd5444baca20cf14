"""Files for other trainers: their keys, and the values of the settings in each.

The keys are checked against the names that the packages know, taken from their own classes and
written down in `trainer_keys.json`; `tests/engines/test_other_loaders.py` asks the packages.
"""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from chat_models import LLAMA2_WITHOUT_SYSTEM, family
from command_line import Delia, refused
from conftest import tiny_llama

from delia_data.errors import ForeignFolderError, InputError, TokenError, UnfinishedError
from delia_data.mixing import mix, save_mixture
from delia_data.models import quiet
from delia_data.reading import read_records
from delia_data.records import Format, Record
from delia_data.tasks import TaskRow
from delia_data.training import TrainSettings, read_recipe
from delia_data.training.exporters import TRAINERS, TrainerFiles, TrainerName, write_trainer_files
from delia_data.training.prepare import prepare

KEYS: dict[str, dict[str, str]] = json.loads(
    (Path(__file__).parents[1] / "trainer_keys.json").read_text("utf-8")
)
Write = Callable[..., TrainerFiles]
SETTINGS = TrainSettings(batch_size=4, max_length=200, epochs=2, seed=5, warmup_steps=1)
TASK = [TaskRow(Record.pair("As <sep>: is it so?", "{'so': 'yes'}"))]
PAIRS = [Record.pair(f"Question {i}?", f"Answer {i}.") for i in range(4)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of models that tests share and do not change."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def model(made: Path, make_tiny_tokenizer: Callable[[], Any]) -> Callable[..., Path]:
    """Prepare a random tiny model; its tokenizer may be that of a family."""

    def make(name: str | None = None, template: str | None = None) -> Path:
        base, folder = made / f"base-{name}-{template is None}", made / f"{name}-{template is None}"
        if folder.is_dir():
            return folder
        tokenizer = family(name) if name else make_tiny_tokenizer()
        if template is not None:
            tokenizer.chat_template = template
        with quiet():
            tiny_llama(vocabulary=len(tokenizer)).save_pretrained(base)
        tokenizer.save_pretrained(base)
        prepare(base, folder)
        return folder

    return make


@pytest.fixture
def mixture(tmp_path: Path) -> Callable[..., Path]:
    """Write a mixture of one task row and four pairs."""

    def make(format: Format = "messages", token: str = "<sep>") -> Path:
        folder = tmp_path / f"mix-{format}-{len(token)}"
        task = [TaskRow(Record.pair(f"As {token}: is it so?", "{'so': 'yes'}"))]
        save_mixture(mix(task, PAIRS, ratio=4, format=format, token=token), folder)
        return folder

    return make


@pytest.fixture
def write(model: Callable[..., Path], mixture: Callable[..., Path], tmp_path: Path) -> Write:
    """Write the files of a trainer."""

    def write(
        trainer: TrainerName,
        settings: TrainSettings = SETTINGS,
        *,
        format: Format = "messages",
        name: str | None = None,
    ) -> TrainerFiles:
        folder = tmp_path / f"{trainer}-{format}"
        return write_trainer_files(trainer, mixture(format), model(name), folder, settings=settings)

    return write


def read(written: TrainerFiles, name: str) -> Any:
    """Return the content of a written file; YAML includes JSON."""
    (file,) = (file for file in written.files if file.name == name)
    return yaml.safe_load(file.read_text("utf-8"))


def unknown(config: dict[str, Any], package: str, part: str) -> set[str]:
    return set(config) - set(KEYS[package][part].split())


WAYS = [
    SETTINGS,
    replace(SETTINGS, token_training="lora", adaptation="qlora", device="cuda"),
    replace(SETTINGS, adaptation="full", neftune_alpha=5.0, dtype="float32", truncate=True),
    replace(SETTINGS, token_rate=0.5, gradient_checkpointing=False, device="cuda"),
    read_recipe("paper-llama2-7b"),
    read_recipe("smollm2-135m-cpu"),
]


@pytest.mark.parametrize("settings", WAYS, ids=range(len(WAYS)))
class TestKeys:
    def test_axolotl(self, write: Write, settings: TrainSettings) -> None:
        config = read(write("axolotl", settings), "axolotl.yaml")
        assert unknown(config, "axolotl 0.19.0", "config") == set()
        assert unknown(config["datasets"][0], "axolotl 0.19.0", "dataset") == set()

    def test_llama_factory(self, write: Write, settings: TrainSettings) -> None:
        written = write("llama-factory", settings)
        package = "llamafactory 0.9.5"
        assert unknown(read(written, "llama_factory.yaml"), package, "arguments") == set()
        (rows,) = read(written, "dataset_info.json").values()
        assert unknown(rows, package, "dataset") == set()
        assert unknown(rows["columns"], package, "columns") == set()
        assert unknown(rows["tags"], package, "tags") == set()
        assert rows["formatting"] in KEYS[package]["formatting"].split()
        assert Path(rows["file_name"]).suffix[1:] in KEYS[package]["file endings"].split()

    def test_unsloth(self, write: Write, settings: TrainSettings) -> None:
        trl = pytest.importorskip("trl")
        (file,) = write("unsloth", settings).files
        tree = ast.parse(file.read_text("utf-8"))
        compile(tree, str(file), "exec")
        calls = {
            ast.unparse(node.func): {str(keyword.arg) for keyword in node.keywords}
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
        }
        known = {name: set(of.split()) for name, of in KEYS["unsloth 2026.10.9"].items()}
        known["UnslothTrainingArguments"] |= set(trl.SFTConfig.__dataclass_fields__)
        adapted = settings.adaptation != "full"
        assert ("FastLanguageModel.get_peft_model" in calls) == adapted
        for name in known.keys() & calls.keys():
            assert calls[name] <= known[name]


def test_the_settings_in_axolotl(write: Write) -> None:
    written = write("axolotl")
    config = read(written, "axolotl.yaml")
    assert config["peft_trainable_token_indices"] == {"embed_tokens": [261]}
    assert config["lora_target_modules"] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert (config["micro_batch_size"], config["gradient_accumulation_steps"]) == (4, 1)
    assert (config["sequence_len"], config["excess_length_strategy"]) == (200, "raise")
    assert (config["shuffle_merged_datasets"], config["curriculum_sampling"]) == (False, True)
    assert (config["num_epochs"], config["seed"], config["learning_rate"]) == (2.0, 5, 2e-4)
    assert "eot_tokens" not in config
    assert Path(config["datasets"][0]["path"]) == written.rows
    assert written.command == f"axolotl train {written.files[0]}"


def test_a_path_that_axolotl_takes_for_the_name_of_a_model(
    mixture: Callable[..., Path], model: Callable[..., Path], tmp_path: Path
) -> None:
    prompt = tmp_path / "prompts"
    shutil.copytree(model(), prompt)
    notes = [
        write_trainer_files("axolotl", mixture(), folder, tmp_path / name, settings=settings).notes
        for name, folder, settings in [
            ("a", model(), SETTINGS),
            ("b", prompt, SETTINGS),
            ("c", prompt, replace(SETTINGS, gradient_checkpointing=False)),
        ]
    ]
    assert [len(each) for each in notes] == [0, 1, 0]
    assert "for an MPT" in notes[1][0]


def test_an_end_of_turn_that_is_not_the_end_of_sequence(write: Write) -> None:
    pytest.importorskip("trl")
    config = read(write("axolotl", name="gemma"), "axolotl.yaml")
    assert config["eot_tokens"] == ["<end_of_turn>"]
    assert config["datasets"][0]["train_on_eot"] == "turn"


def test_the_settings_in_llama_factory(write: Write) -> None:
    written = write("llama-factory", replace(SETTINGS, targets=("all-linear",)))
    config = read(written, "llama_factory.yaml")
    linear = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
    assert config["lora_target"] == f"{linear},embed_tokens"
    assert config["dataset_dir"] == str(written.files[0].parent)
    assert config["dataset"] in read(written, "dataset_info.json")
    assert (config["disable_shuffling"], config["cutoff_len"]) == (True, 200)
    assert "template" not in config
    assert any("LoRA adapts the embedding" in note for note in written.notes)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_loss_that_no_other_trainer_has_is_noted(write: Write, trainer: Any) -> None:
    without, with_kl = (
        write(trainer, replace(SETTINGS, pairs_loss=loss)).notes for loss in ("ce", "kl")
    )
    (note,) = (note for note in with_kl if note not in without)
    assert note.startswith("pairs_loss kl is left out: pairs are trained with cross-entropy")


@pytest.mark.parametrize(("name", "format"), [("gemma", "gemma"), ("llama-2", "llama2")])
def test_formats_that_llama_factory_knows_by_name(write: Write, name: str, format: str) -> None:
    pytest.importorskip("trl")
    assert read(write("llama-factory", name=name), "llama_factory.yaml")["template"] == format


def test_a_format_that_llama_factory_cannot_read(
    model: Callable[..., Path], mixture: Callable[..., Path], tmp_path: Path
) -> None:
    folder = model("smollm2", template=LLAMA2_WITHOUT_SYSTEM.replace("INST", "ASK"))
    with pytest.raises(InputError, match="only where it has system turns"):
        write_trainer_files("llama-factory", mixture(), folder, tmp_path / "out", settings=SETTINGS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("format", ["messages", "prompt_completion", "alpaca", "sharegpt"])
def test_rows_are_converted_for_a_trainer_that_cannot_read_them(
    write: Write, trainer: TrainerName, format: Format, tmp_path: Path
) -> None:
    readable = {
        "axolotl": {"messages", "sharegpt"},
        "llama-factory": {"messages", "sharegpt", "alpaca"},
        "trl": {"prompt_completion"},
        "unsloth": {"messages"},
    }
    rows = write(trainer, format=format).rows
    in_place = rows.parent.name.startswith("mix-")
    assert in_place == (format in readable[trainer])
    if not in_place:
        sizes = sorted(record.id for record in read_records(rows))
        assert sizes == sorted(record.id for record in [TASK[0].record, *PAIRS])


@pytest.mark.parametrize("trainer", TRAINERS)
def test_pairs_of_several_turns(trainer: TrainerName, model: Any, tmp_path: Path) -> None:
    pairs = [Record((*pair.messages, *PAIRS[0].messages)) for pair in PAIRS]
    save_mixture(mix(TASK, pairs, ratio=4), tmp_path / "mixture")
    written = write_trainer_files(
        trainer, tmp_path / "mixture", model(), tmp_path / "out", settings=SETTINGS
    )
    rows = {record.id for record in read_records(written.rows)}
    assert rows == {record.id for record in [TASK[0].record, *pairs]}


def test_template_options_of_the_rows(model: Any, tmp_path: Path) -> None:
    options = {"short": True}
    mixture = mix(TASK, PAIRS, ratio=4, template_options=options)
    save_mixture(mixture, tmp_path / "mixture")

    def write(trainer: TrainerName) -> TrainerFiles:
        return write_trainer_files(
            trainer, tmp_path / "mixture", model(), tmp_path / trainer, settings=SETTINGS
        )

    written = write("trl")
    (dataset,) = read(written, "trl.yaml")["datasets"]
    assert dataset["columns"] == ["prompt", "completion", "chat_template_kwargs"]
    rows = [json.loads(line) for line in written.rows.read_text("utf-8").splitlines()]
    assert [row["chat_template_kwargs"] for row in rows] == [options] * 5
    note = "axolotl does not read the template options of the rows: give delia prepare"
    assert write("axolotl").notes == (f"{note} --template-option short=true",)


def test_converted_rows_keep_their_order(write: Write) -> None:
    import pyarrow.parquet as pq

    kept = write("axolotl").rows
    converted = write("trl").rows
    expected = [row["messages"][-1]["content"] for row in pq.read_table(kept).to_pylist()]
    assert [record.answer for record in read_records(converted)] == expected


def test_batches(write: Write) -> None:
    """Sixteen where there are few rows; the rows computed at once divide the batch."""
    sizes = []
    for trainer, settings in [
        ("axolotl", replace(SETTINGS, batch_size=None)),
        ("trl", replace(SETTINGS, batch_size=12)),
        ("llama-factory", replace(SETTINGS, batch_size=12, micro_batch_size=3)),
    ]:
        config = yaml.safe_load(write(trainer, settings).files[-1].read_text("utf-8"))
        micro = config.get("micro_batch_size") or config["per_device_train_batch_size"]
        sizes.append((micro, config["gradient_accumulation_steps"]))
    assert sizes == [(8, 2), (6, 2), (3, 4)]


class TestRefused:
    def test_nothing_is_overwritten(self, write: Write, mixture: Any, model: Any) -> None:
        first = write("trl")
        before = {file: file.read_bytes() for file in (*first.files, first.rows)}
        assert write_again(first, mixture("messages"), model()) == first
        with pytest.raises(ForeignFolderError, match="holds something else"):
            write_again(first, mixture("messages"), model(), epochs=9)
        first.rows.write_text("{}\n")
        with pytest.raises(ForeignFolderError, match=r"train-prompt_completion\.jsonl"):
            write_again(first, mixture("messages"), model())
        assert first.rows.read_text() == "{}\n"
        assert {file: file.read_bytes() for file in first.files} == {
            file: before[file] for file in first.files
        }

    def test_other_folders_are_refused(
        self, made: Path, model: Any, mixture: Any, tmp_path: Path
    ) -> None:
        folder, rows, out = model(), mixture(), tmp_path / "out"
        with pytest.raises(InputError, match="run delia prepare"):
            write_trainer_files("trl", rows, made / "base-None-True", out, settings=SETTINGS)
        with pytest.raises(InputError, match="is unknown: use one of axolotl"):
            write_trainer_files("other", rows, folder, out, settings=SETTINGS)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="holds a model, not a mixture"):
            write_trainer_files("trl", folder, folder, out, settings=SETTINGS)
        with pytest.raises(TokenError, match="was prepared without <json>"):
            write_trainer_files("trl", mixture(token="<json>"), folder, out, settings=SETTINGS)
        (rows / "FINISHED").unlink()
        with pytest.raises(UnfinishedError):
            write_trainer_files("trl", rows, folder, out, settings=SETTINGS)
        assert not out.exists()

    def test_the_command(self, delia: Delia, model: Any, mixture: Any, tmp_path: Path) -> None:
        folder, rows, out = model(), mixture(), tmp_path / "out"
        given = ["export", rows, out, "--for", "llama-factory", "--model", folder]
        written = delia(*given)
        assert written.code == 0
        assert written.out.splitlines()[0] == str(out / "dataset_info.json")
        assert written.out.splitlines()[-1] == f"llamafactory-cli train {out}/llama_factory.yaml"
        again = json.loads(delia(*given, "--json").out)
        assert again["rows"] == str(rows / "train.parquet")
        assert delia("config", rows, folder, out, "--for", "llama-factory").out == written.out
        refused(delia(*given, "--recipe", "smollm2-135m-cpu"), "holds something else")
        refused(delia(*given[:-1], rows), "is not a prepared model")
        refused(delia(*given[:-2]), "--for needs --model")
        refused(delia("export", rows, out, "--model", folder), "--model is for --for")
        assert delia("export", rows, out, "--for", "nothing", "--model", folder).code == 2


def write_again(first: TrainerFiles, mixture: Path, model: Path, **changed: Any) -> TrainerFiles:
    settings = replace(SETTINGS, **changed)
    return write_trainer_files("trl", mixture, model, first.files[0].parent, settings=settings)
