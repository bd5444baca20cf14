"""Adapters and models on the Hub: published, loaded by the card's lines, pulled."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import tiny_llama
from hub_folders import WRITER, WRITES, make_cache, make_task, routes_since
from hub_server import MAIN, HubServer, Repo
from hub_worker import ClientError, Worker
from safetensors.torch import load_file
from trained import MARKS, logits_of, sequences, tiny_settings

from delia_data.mixing import mix, read_task_rows, save_mixture
from delia_data.outputs import (
    Manifest,
    finish,
    read_manifest,
    weights_sha256,
    write_json,
    write_text,
)
from delia_data.training import load_adapter, train
from delia_data.training.adapter import export_merged, export_parted
from delia_data.training.data import ProvenanceWarning

pytestmark = MARKS
BASE = "org/tiny"
Folders = dict[str, Path]


@pytest.fixture(scope="module")
def models(
    hub: HubServer, tmp_path_factory: pytest.TempPathFactory, make_tiny_tokenizer: Callable[[], Any]
) -> Folders:
    """An adapter of a mixture, its exports, and an evaluation; the base model on the Hub."""
    root = tmp_path_factory.mktemp("models")
    task, cache = make_task(root / "task"), make_cache(root / "cache", 20)
    save_mixture(mix(read_task_rows(task), cache, ratio=1), root / "mixture")
    settings = tiny_settings(root / "base", tiny_llama(), make_tiny_tokenizer())
    for name, rate in (("adapter", 1e-2), ("other", 2e-2)):
        with pytest.warns(ProvenanceWarning):
            train(replace(settings, learning_rate=rate), root / "mixture", root / name)
    export_parted(root / "adapter", root / "parted")
    export_merged(root / "adapter", root / "merged")
    hub.repos[f"models/{BASE}"] = repo = Repo(f"models/{BASE}", private=False)
    repo.refs[MAIN] = repo.add({}, None, "initial commit").sha
    files = {path.name: path.read_bytes() for path in (root / "base").iterdir()}
    hub.write(f"models/{BASE}", files)
    evaluation = root / "evaluation"
    write_json(evaluation / "evaluation.json", {"numbers": {"model": {"follow": {"value": 0.75}}}})
    write_text(evaluation / "README.md", "## Evaluation on parity\n\n| follow | 75% |\n")
    settings_of_it = {"task": "parity", "token": "<sep>"}
    finish(evaluation, Manifest(kind="evaluation", settings=settings_of_it, rows={"held-out": 2}))
    return {path.name: path for path in root.iterdir()}


def push(client: Worker, *folders: Path, repo: str, **more: Any) -> Any:
    given = {"license": "apache-2.0", "base_model": BASE, **more}
    return client("push", WRITER, folders=folders, repo=repo, **given)


def card_of(hub: HubServer, repo: str) -> tuple[dict[str, Any], str]:
    _, front, text = hub.files(f"models/{repo}")["README.md"].decode().split("---\n", 2)
    return yaml.safe_load(front), text


def lines_of(text: str) -> str:
    return "import torch\n" + text.split("```python\n", 1)[1].split("```", 1)[0]


@pytest.mark.parametrize("form", ["adapter", "parted", "merged"])
def test_the_lines_of_the_card_load_the_trained_model(
    form: str,
    hub: HubServer,
    client: Worker,
    models: Folders,
    make_tiny_tokenizer: Callable[[], Any],
) -> None:
    repo = f"org/by-card-{form}"
    done = push(client, models[form], models["evaluation"], repo=repo)
    assert (done["version"], done["tag"], done["changed"]) == ("1.0.0", "v1.0.0", True)
    front, text = card_of(hub, repo)
    assert front["base_model"] == BASE
    assert front["library_name"] == ("transformers" if form == "merged" else "peft")
    assert front["license"] == "apache-2.0"
    (entry,) = front["model-index"]
    (metric,) = entry["results"][0]["metrics"]
    assert (metric["type"], metric["value"]) == ("follow", 0.75)
    assert entry["results"][0]["dataset"]["name"] == "parity"
    assert "| follow | 75% |" in text
    trained, tokenizer = load_adapter(models["adapter"])
    ids = sequences(tokenizer)
    found = client("load_model", None, lines=lines_of(text), ids=ids)
    assert found["token"] == tokenizer.convert_tokens_to_ids("<sep>")
    there = torch.tensor(found["logits"])
    torch.testing.assert_close(there, logits_of(trained, ids), atol=0.02, rtol=0.02)
    base = tiny_llama()
    base.resize_token_embeddings(len(tokenizer))
    assert (there - logits_of(base, ids)).abs().max() > 0.1


def test_a_card_says_what_the_adapter_was_trained_on(
    hub: HubServer, client: Worker, models: Folders
) -> None:
    push(client, models["adapter"], repo="org/trained")
    _, text = card_of(hub, "org/trained")
    assert "- mixture, ratio: `1.0`" in text
    assert "- rows: 6 cache, 6 task" in text
    assert read_manifest(models["adapter"]).inputs["mixture"] in text
    assert "## Evaluation" not in text


def test_pull_gives_the_adapter_back(
    hub: HubServer, client: Worker, models: Folders, tmp_path: Path
) -> None:
    push(client, models["adapter"], models["evaluation"], repo="org/back")
    out = tmp_path / "pulled"
    done = client("main", WRITER, arguments=["pull", "org/back@v1.0.0", str(out)])
    assert done["code"] == 0, done["err"]
    assert f"{out}, {out / 'evaluation'}" in done["out"].replace("\n", " ")
    mine, pulled = (read_manifest(f, verify=True) for f in (models["adapter"], out))
    assert pulled.settings == {**mine.settings, "model": BASE}
    weights = "adapter_model.safetensors"
    assert load_file(out / weights).keys() == load_file(models["adapter"] / weights).keys()
    assert pulled.files[weights] == mine.files[weights]
    assert read_manifest(out / "evaluation", verify=True).kind == "evaluation"
    again = client("push", WRITER, folders=[out], repo="org/back")
    assert (again["changed"], again["version"]) == (False, "1.0.0")
    hub.fail("download", "corrupt", times=2)
    with pytest.raises(ClientError, match="has other bytes than its manifest says"):
        client("pull", WRITER, name="org/back", folder=str(tmp_path / "broken"))
    assert not (tmp_path / "broken" / "FINISHED").exists()
    client("pull", WRITER, name="org/back", folder=str(tmp_path / "broken"))
    assert read_manifest(tmp_path / "broken", verify=True) == pulled


def test_pull_leaves_a_trained_adapter_alone(
    client: Worker, models: Folders, tmp_path: Path
) -> None:
    push(client, models["adapter"], repo="org/careful")
    shutil.copytree(models["other"], tmp_path / "mine")
    with pytest.raises(ClientError, match="holds something else"):
        client("pull", WRITER, name="org/careful", folder=str(tmp_path / "mine"))
    assert read_manifest(tmp_path / "mine", verify=True) == read_manifest(models["other"])


def test_a_pull_of_another_version_replaces_the_earlier_one(
    client: Worker, models: Folders, tmp_path: Path
) -> None:
    push(client, models["adapter"], models["evaluation"], repo="org/versions")
    done = push(client, models["merged"], repo="org/versions", replace_all=True)
    assert (done["version"], done["why"]) == ("1.1.0", "changed: model; removed: evaluation")
    out = tmp_path / "out"
    client("pull", WRITER, name="org/versions@v1.0.0", folder=str(out))
    client("pull", WRITER, name="org/versions", folder=str(out))
    assert read_manifest(out, verify=True).kind == "model"
    assert not (out / "adapter_config.json").exists()
    found = client("diff", WRITER, before="org/versions@v1.0.0", after="org/versions@v1.1.0")
    assert [(change["where"], change["removed"]) for change in found["rows"]] == [
        ("evaluation", 1),
        ("model", 5),
    ]


def test_an_evaluation_does_not_stay_with_another_model(
    hub: HubServer, client: Worker, models: Folders
) -> None:
    push(client, models["adapter"], models["evaluation"], repo="org/stays")
    begin = len(hub.log)
    with pytest.raises(ClientError, match="holds the evaluation of another model"):
        push(client, models["other"], repo="org/stays")
    assert not WRITES & set(routes_since(hub, begin))
    assert not push(client, models["adapter"], repo="org/stays")["changed"]
    done = push(client, models["other"], models["evaluation"], repo="org/stays")
    assert (done["version"], done["why"]) == ("1.1.0", "changed: model")
    with pytest.raises(ClientError, match="has no model to evaluate"):
        push(client, models["evaluation"], repo="org/alone", base_model=None)


@pytest.mark.parametrize("form", ["adapter", "parted", "merged"])
def test_no_path_of_this_machine_is_published(
    hub: HubServer, client: Worker, models: Folders, form: str
) -> None:
    push(client, models[form], repo=f"org/no-path-{form}")
    files = hub.files(f"models/org/no-path-{form}")
    assert [name for name, data in files.items() if str(models["base"]).encode() in data] == []
    if form == "adapter":
        assert yaml.safe_load(files["recipe.yaml"])["model"] == BASE
        assert json.loads(files["training.json"])["model"] == BASE


def test_a_model_of_a_local_folder_says_so(hub: HubServer, client: Worker, models: Folders) -> None:
    push(client, models["merged"], repo="org/of-local", base_model=None)
    front, text = card_of(hub, "org/of-local")
    assert "base_model" not in front
    assert "- base model: `base`, a local folder that has no name on the Hub" in text
    files = hub.files("models/org/of-local")
    assert [name for name, data in files.items() if str(models["base"]).encode() in data] == []


def test_an_evaluation_of_other_weights_is_refused(
    client: Worker, models: Folders, tmp_path: Path
) -> None:
    evaluation = tmp_path / "evaluation"
    shutil.copytree(models["evaluation"], evaluation)
    before = read_manifest(evaluation)
    inputs = {"weights": str(weights_sha256(read_manifest(models["adapter"])))}
    finish(evaluation, before.model_copy(update={"inputs": inputs}))
    with pytest.raises(ClientError, match="other weights than those of the given model"):
        push(client, models["other"], evaluation, repo="org/stale")
    for form in ("adapter", "merged", "parted"):
        push(client, models[form], evaluation, repo=f"org/fresh-{form}", dry_run=True)
    push(client, models["adapter"], repo="org/fresh")
    assert push(client, evaluation, repo="org/fresh", base_model=None)["changed"]
    push(client, models["other"], repo="org/stale")
    with pytest.raises(ClientError, match="other weights than those of the published model"):
        push(client, evaluation, repo="org/stale", base_model=None)


def test_a_local_base_model_needs_its_name(client: Worker, models: Folders) -> None:
    with pytest.raises(ClientError, match="--base-model org/name"):
        push(client, models["adapter"], repo="org/nameless", base_model=None)
    with pytest.raises(ClientError, match="base model: it is org/name"):
        push(client, models["adapter"], repo="org/nameless", base_model="./base")


def test_a_key_in_a_text_file_stops_a_push(
    client: Worker, models: Folders, tmp_path: Path, hub: HubServer
) -> None:
    leaky = tmp_path / "leaky"
    shutil.copytree(models["adapter"], leaky)
    with (leaky / "chat_template.jinja").open("a") as file:
        file.write("{# postgres://me:hunter22@db.internal/main #}\n")
    manifest = read_manifest(models["adapter"])
    finish(leaky, manifest)
    with pytest.raises(ClientError, match=r"url-password.*chat_template\.jinja"):
        push(client, leaky, repo="org/leaky-model")
    assert "models/org/leaky-model" not in hub.repos


def test_a_dry_run_and_a_dataset_of_the_same_name(
    hub: HubServer, client: Worker, models: Folders, folders: Folders, tmp_path: Path
) -> None:
    begin = len(hub.log)
    arguments = ["push", "org/both", str(models["adapter"]), "--license", "mit"]
    arguments += ["--base-model", BASE, "--dry-run", "--json"]
    done = client("main", WRITER, arguments=arguments)
    assert done["code"] == 0, done["err"]
    assert not json.loads(done["out"])["sent"]
    assert not WRITES & set(routes_since(hub, begin))
    push(client, models["adapter"], repo="org/both")
    client("push", WRITER, folders=[folders["task"]], repo="org/both", license="mit")
    for more, kind in (((), "publication"), (("--repo-type", "model"), "adapter")):
        out = tmp_path / kind
        done = client("main", WRITER, arguments=["pull", "org/both", str(out), *more])
        assert done["code"] == 0, done["err"]
        assert read_manifest(out).kind == kind


def test_concurrent_pushes_and_a_lost_answer(
    hub: HubServer, client: Worker, models: Folders
) -> None:
    hub.fail("commit", "drop-after")
    hub.fail("tag", status=503)
    done = push(client, models["adapter"], repo="org/faulty")
    assert (done["changed"], done["version"]) == (True, "1.0.0")
    assert len(hub.repos["models/org/faulty"].commits) == 2
    hub.fail("commit", status=412)
    done = push(client, models["other"], repo="org/faulty")
    assert (done["version"], done["tag"]) == ("1.1.0", "v1.1.0")
    assert hub.repos["models/org/faulty"].refs["refs/tags/v1.1.0"] == done["commit"]
