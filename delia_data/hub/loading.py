"""Lines that load a publication in the tools that people train with, at exactly its version."""

from __future__ import annotations

import json
from typing import Any, Final

from delia_data.hub.parts import CACHE
from delia_data.outputs import Manifest

# What each row format is called by tools, and under which names its columns lie.
_AXOLOTL: Final[dict[str, list[str]]] = {
    "messages": ["type: chat_template", "field_messages: messages", "roles_to_train: [assistant]"],
    "alpaca": ["type: alpaca"],
    "sharegpt": [
        "type: chat_template",
        "field_messages: conversations",
        "message_property_mappings: {role: from, content: value}",
        "roles_to_train: [assistant]",
    ],
}
_OPENAI_TAGS: Final = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}
_FACTORY: Final[dict[str, dict[str, Any]]] = {
    "messages": {
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": _OPENAI_TAGS,
    },
    "alpaca": {"formatting": "alpaca"},
    "sharegpt": {"formatting": "sharegpt", "columns": {"messages": "conversations"}},
}


def loading(repo: str, manifest: Manifest) -> str:
    """Word the lines for the largest mixture; for the cache where there is no mixture.

    Args:
        repo: The repository.
        manifest: The publication's manifest.
    """
    tag = f"v{manifest.settings['version']}"
    mixtures = manifest.details["mixtures"]
    plain = {name: m for name, m in mixtures.items() if m["form"] == "plain"}
    lean = {name: m for name, m in mixtures.items() if m["form"] == "lean"}
    texts = []
    if plain:
        name, mixture = list(plain.items())[-1]
        texts += _plain(repo, tag, name, str(mixture["settings"]["format"]))
        texts += _factory(name, str(mixture["settings"]["format"]), manifest)
    elif CACHE in manifest.details:
        texts.append(_python(f'load_dataset("{repo}", "{CACHE}", revision="{tag}")'))
    if lean:
        ratio = list(lean.values())[-1]["settings"]["ratio"]
        texts.append(
            "A mixture in the lean form is an index over the cache, which delia_data resolves:\n\n"
            + _python(
                f'load_dataset("delia_mix", repo="{repo}", ratio={ratio:.15g}, revision="{tag}")',
                "import delia_data  # registers delia_mix",
            )
        )
    texts.append(
        f"All of it, with its hashes checked:\n\n```\ndelia pull {repo}@{tag} my-folder\n```"
    )
    return "\n\n".join(texts)


def _plain(repo: str, tag: str, name: str, row_format: str) -> list[str]:
    call = f'load_dataset("{repo}", "{name}", revision="{tag}")'
    texts = [_python(call), "`streaming=True` works as well. The same rows in other tools:"]
    files = f"hf://datasets/{repo}@{tag}/{name}/train*.parquet"
    texts.append(
        "TRL (`trl sft --config sft.yaml`):\n\n```yaml\ndatasets:\n  - path: parquet\n"
        f"    data_files: {files}\n```"
    )
    if row_format in _AXOLOTL:
        lines = "\n".join(f"    {line}" for line in _AXOLOTL[row_format])
        texts.append(
            f"axolotl:\n\n```yaml\ndatasets:\n  - path: {repo}\n    name: {name}\n"
            f"    revision: {tag}\n    split: train\n{lines}\n```"
        )
    return texts


def _factory(name: str, row_format: str, manifest: Manifest) -> list[str]:
    """An entry of LLaMA-Factory's `dataset_info.json`, which names one file."""
    path = f"{name}/train.parquet"
    if row_format not in _FACTORY or path not in manifest.files:
        return []
    entry = {"file_name": f"my-folder/{path}", **_FACTORY[row_format]}
    told = json.dumps({name: entry}, indent=2)
    return [f"LLaMA-Factory (`dataset_info.json`), on what was pulled:\n\n```json\n{told}\n```"]


def _python(call: str, first: str = "") -> str:
    lines = [*([first] if first else []), "from datasets import load_dataset", "", call]
    return "\n".join(["```python", *lines, "```"])
