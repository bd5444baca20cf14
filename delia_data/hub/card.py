"""Write the card of a publication from its manifest, and keep sections written by hand.

A section is a heading of level two with the text below it. One whose heading is not generated was
written by hand: it stays behind the section that it followed. So do keys of the front matter that
are not generated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import yaml
from rich.filesize import decimal

from delia_data.errors import FormatError
from delia_data.hub.client import is_name
from delia_data.hub.parts import ADAPTER, CACHE, EVALUATION, MODEL, TASK, home_of
from delia_data.outputs import Manifest
from delia_data.tokens import split_tokens

HEADINGS: Final = (
    "Mixtures",
    "Usage",
    "Model",
    "Task",
    "Dropped rows",
    "Version",
    "License",
    "Citation",
)
MODEL_HEADINGS: Final = ("Usage", "Evaluation", "Training", "Version", "License", "Citation")
_EARLIER_HEADINGS: Final = {
    "Loading": "Usage",
    "The model that wrote the pairs": "Model",
    "The task": "Task",
    "What was dropped": "Dropped rows",
    "Pictures": "Dropped rows",
    "This version": "Version",
    "Licence": "License",
}
"""Headings of cards that version 0.1.0 wrote, and those that replace them."""
_NOTE: Final = (
    "<!-- delia push rewrites the sections {names}. Sections with other headings stay. -->"
)
_PAPER: Final = """@misc{delia2024,
  title = {DELIA: Diversity-Enhanced Learning for Instruction Adaptation in Large Language Models},
  author = {Zeng, Yuanhao and Ren, Fei and Zhou, Xinpeng and Wang, Yihang and Shao, Yingxia},
  year = {2024},
  eprint = {2408.10841},
  archivePrefix = {arXiv}
}"""

_DATA: Final = (
    "Training data made with delia_data after DELIA "
    "([arXiv 2408.10841](https://arxiv.org/abs/2408.10841)): a small task, each row with its own "
    "wording of the instruction, mixed with query-answer pairs sampled from the model."
)
_MODEL: Final = (
    "A language model that delia_data trained after DELIA "
    "([arXiv 2408.10841](https://arxiv.org/abs/2408.10841)): a special token stands for the output "
    "format of a small task."
)
_FRONT: Final = re.compile(r"\A---\r?\n(.*?)\r?\n?^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_FENCE: Final = re.compile(r"\s{0,3}(```|~~~)")


def make_card(repo: str, manifest: Manifest, before: str) -> str:
    """Make the card of a publication.

    Raises:
        FormatError: The front matter of the card before is not a YAML mapping.
    """
    version = str(manifest.settings["version"])
    is_model = MODEL in manifest.details
    texts = {
        **(_about_model(repo, manifest) if is_model else _about_data(repo, manifest)),
        "Version": (
            f"Version {version}: {manifest.details['why']}. The SHA-256 of its content is "
            f"`{manifest.inputs['content']}`; `{home_of('model' if is_model else 'dataset')}"
            "manifest.json` has the hash of every file, and `delia pull` verifies them."
        ),
        "License": f"`{manifest.settings['licence']}`, as given by the publisher.",
        "Citation": _citation(manifest.details.get("citation")),
    }
    headings = MODEL_HEADINGS if is_model else HEADINGS
    head = (
        f"# {repo.split('/')[1]}, v{version}\n\n{_NOTE.format(names=', '.join(headings))}\n\n"
        f"{_MODEL if is_model else _DATA}"
    )
    front = _model_front(repo, manifest) if is_model else _front(manifest)
    sections = [("", head), *((name, text) for name, text in texts.items() if text)]
    return merge_cards(front, sections, before, generated=headings)


def _about_data(repo: str, manifest: Manifest) -> dict[str, str]:
    return {
        "Mixtures": _mixtures(manifest),
        "Usage": _usage(repo, manifest),
        "Model": _model(manifest.details.get(CACHE)),
        "Task": _task(manifest.details.get(TASK)),
        "Dropped rows": _dropped(manifest),
    }


def _about_model(repo: str, manifest: Manifest) -> dict[str, str]:
    evaluation = manifest.details.get(EVALUATION, {}).get("card", "")
    heading, _, text = evaluation.partition("\n\n")
    text = f"{heading.removeprefix('## ')}:\n\n{text.strip()}" if evaluation else ""
    return {
        "Usage": _model_usage(repo, manifest),
        "Evaluation": text,
        "Training": _training(manifest.details[MODEL]),
    }


def _model_front(repo: str, manifest: Manifest) -> dict[str, Any]:
    """Return the front matter, with the numbers in the Hub's format for evaluation results."""
    from huggingface_hub import EvalResult, ModelCardData

    model, evaluation = manifest.details[MODEL], manifest.details.get(EVALUATION)
    adapter = model["is_adapter"] or ADAPTER in manifest.details
    results = []
    if evaluation:
        task = evaluation["settings"]["task"]
        results = [
            EvalResult(
                task_type="text-generation",
                dataset_type="delia-task",
                dataset_name=task,
                dataset_split="test",
                metric_type=name,
                metric_value=number["value"],
            )
            for name, number in evaluation["numbers"].items()
        ]
    data: Any = ModelCardData(
        license=manifest.settings["licence"],
        base_model=model["base_model"] if is_name(model["base_model"]) else None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["delia", *(["lora"] if adapter else [])],
        model_name=repo.split("/")[1],
        eval_results=results or None,
    )
    front: dict[str, Any] = data.to_dict()
    return front


def _model_usage(repo: str, manifest: Manifest) -> str:
    """Return the lines that load a model with its tokenizer, which has the token."""
    model, tag = manifest.details[MODEL], f"v{manifest.settings['version']}"
    where, rows = f'"{repo}", revision="{tag}"', model["settings"].get("token_training", "row")
    pull = f"delia pull {repo}@{tag} my-model"
    if model["is_adapter"] and rows == "row":
        lines = (
            "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer\n\n"
            f"tokenizer = AutoTokenizer.from_pretrained({where})\n"
            f"model = AutoPeftModelForCausalLM.from_pretrained({where})"
        )
    elif model["is_adapter"]:  # LoRA on the embedding needs the token's initial row
        lines = (
            "from delia_data.training import load_adapter\n\n"
            f'model, tokenizer = load_adapter("my-model")  # after {pull}'
        )
    else:
        parted = ADAPTER in manifest.details
        where += ', subfolder="model"' * parted
        lines = (
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f"tokenizer = AutoTokenizer.from_pretrained({where})\n"
            f"model = AutoModelForCausalLM.from_pretrained({where})"
        )
        if parted:
            adapter = f'model, "{repo}", revision="{tag}", subfolder="{ADAPTER}"'
            lines = (
                f"from peft import PeftModel\n{lines}\nmodel = PeftModel.from_pretrained({adapter})"
            )
    tokens = model["settings"].get("token")
    named = tokens if isinstance(tokens, list) else [tokens] if tokens else []
    texts = [f"```python\n{lines}\n```"]
    if named:
        length = len(split_tokens(*named)) // len(named)
        how = "as a single token" if length == 1 else f"as a sequence of {length} tokens"
        texts.append(
            f"The tokenizer has {' and '.join(map(_code, named))} {how}. A prompt that "
            "contains it asks for the format of its task."
        )
    texts.append(f"Everything, with verified hashes:\n\n```\n{pull}\n```")
    return "\n\n".join(texts)


def _training(model: Mapping[str, Any]) -> str:
    """Return the training's rows, the mixture and its version, and the settings."""
    base = model["base_model"]
    local = "" if is_name(base) else ", a local folder that has no name on the Hub"
    lines = [f"- base model: {_code(base)}{local}"]
    mixture = model["details"].get("mixture", {})
    if version := mixture.get("version"):
        lines.append(
            f"- mixture: from version {_code(version)} of a publication with content "
            f"{_code(mixture['content'])}"
        )
    settings = mixture.get("settings", {})
    lines += [f"- mixture, {key.replace('_', ' ')}: {_code(v)}" for key, v in settings.items()]
    if rows := model["rows"]:
        lines.append(f"- rows: {', '.join(f'{_count(n)} {source}' for source, n in rows.items())}")
    lines += [f"- SHA-256 of {key}: {_code(sha)}" for key, sha in model["inputs"].items()]
    lines.append(f"- delia_data: {_code(model['code_version'])}")
    shown = {k: v for k, v in model["settings"].items() if v not in (None, [], False)}
    lines += [f"- {key.replace('_', ' ')}: {_code(value)}" for key, value in shown.items()]
    return "\n".join(lines)


def _front(manifest: Manifest) -> dict[str, Any]:
    configs = []
    for name, mixture in manifest.details["mixtures"].items():
        files = [{"split": "train", "path": f"{name}/train*.parquet"}]
        if mixture["rows"].get("test"):
            files.append({"split": "test", "path": f"{name}/test*.parquet"})
        configs.append({"config_name": name, "data_files": files})
    if CACHE in manifest.details:
        files = [{"split": "train", "path": f"{CACHE}/pairs*.parquet"}]
        configs.append({"config_name": CACHE, "data_files": files})
    front: dict[str, Any] = {"license": manifest.settings["licence"]}
    if configs:
        front["configs"] = configs
    return {**front, "tags": ["delia", "instruction-tuning", "synthetic"]}


def _mixtures(manifest: Manifest) -> str:
    mixtures = manifest.details["mixtures"]
    if not mixtures:
        return ""
    counted = any("tokens" in mixture["details"] for mixture in mixtures.values())
    contrast = ["contrast"] * any(mixture["rows"].get("contrast") for mixture in mixtures.values())
    sources = ["task", *contrast, "cache"]
    rows = [
        [
            f"`{name}`",
            f"{m['settings']['ratio']:.15g}",
            *(_count(m["rows"].get(key)) for key in (*sources, "test")),
            *(_count(m["details"].get("tokens", {}).get(key)) for key in sources if counted),
            decimal(m["bytes"]),
        ]
        for name, m in mixtures.items()
    ]
    names = ["task", *contrast, "pair"]
    tokens = "".join(f" | {name} tokens" for name in names) if counted else ""
    row_columns = "".join(f" | {name} rows" for name in names[:-1])
    table = _table(
        f"configuration | ratio{row_columns} | pairs | held-out rows{tokens} | size", rows
    )
    text = f"{table}\n\nThe ratio is the number of pairs for each task row."
    if CACHE in manifest.details:
        shared = manifest.details["shared"]
        text += (
            f" {shared['of_these_in_cache']:,} of the {shared['pairs_in_mixtures']:,} pairs in the "
            "mixtures are in `cache/` too."
        )
    return text


def _usage(repo: str, manifest: Manifest) -> str:
    """Return the lines that load the largest mixture, or the cache if there is no mixture."""
    tag = f"v{manifest.settings['version']}"
    texts = []
    if mixtures := manifest.details["mixtures"]:
        name = list(mixtures)[-1]
        texts += [
            _python(f'load_dataset("{repo}", "{name}", revision="{tag}")'),
            "`streaming=True` works as well. The same rows in other tools:",
            "TRL (`trl sft --config sft.yaml`):\n\n```yaml\ndatasets:\n  - path: parquet\n"
            f"    data_files: hf://datasets/{repo}@{tag}/{name}/train*.parquet\n```",
            "Files for axolotl, LLaMA-Factory and Unsloth, after `delia pull`:\n\n```\n"
            f"delia export my-folder/{name} my-training --for axolotl --model my-model\n```",
        ]
    elif CACHE in manifest.details:
        texts.append(_python(f'load_dataset("{repo}", "{CACHE}", revision="{tag}")'))
    texts.append(
        f"Everything, with verified hashes:\n\n```\ndelia pull {repo}@{tag} my-folder\n```"
    )
    return "\n\n".join(texts)


def _model(cache: Mapping[str, Any] | None) -> str:
    if cache is None:
        return ""
    settings = dict(cache["settings"])
    model = settings.pop("model", None)
    sampling = settings.pop("sampling", None)
    identity = model if isinstance(model, dict) else {"name": model}
    lines = [f"- {key.replace('_', ' ')}: {_code(value)}" for key, value in identity.items()]
    if isinstance(sampling, dict) and sampling:
        lines.append(f"- sampling: {_settings(sampling)}")
    for each in cache["details"].get("earlier_settings", ()):
        lines.append(
            f"- sampling of the first {_count(each['pairs'])}: {_settings(each['sampling'])}"
        )
    lines += [f"- {key.replace('_', ' ')}: {_code(value)}" for key, value in settings.items()]
    pairs, tokens = cache["rows"].get("kept"), cache["details"].get("tokens")
    if pairs is not None:
        answers = f", {_count(tokens)} tokens of answers" if isinstance(tokens, int) else ""
        lines.append(f"- pairs: {_count(pairs)}{answers}")
    return "This model wrote the pairs:\n\n" + "\n".join(lines)


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def _task(task: Mapping[str, Any] | None) -> str:
    if task is None:
        return ""
    settings = task["settings"]
    lines = [f"- {key}: {_code(value)}" for key, value in settings.items() if key != "token"]
    lines.append(f"- special token: {_code(settings.get('token') or 'none')}")
    lines += [f"- {key}: {_code(value)}" for key, value in task["details"].items()]
    lines.append(f"- rows: {', '.join(f'{n} {s}' for s, n in task['rows'].items())}")
    examples = "\n".join(f"- {_code(text)}" for text in task.get("examples", ()))
    return "\n".join(lines) + (f"\n\nExamples of wordings:\n\n{examples}" if examples else "")


def _dropped(manifest: Manifest) -> str:
    steps = {"sampling": CACHE, "diversifying": TASK}
    dropped = {
        (step, reason): number
        for step, name in steps.items()
        for reason, number in manifest.details.get(name, {}).get("dropped", {}).items()
    }
    for name, mixture in manifest.details["mixtures"].items():
        dropped |= {(f"mixing {name}", r): n for r, n in mixture["dropped"].items()}
    rows = [[step, reason, _count(number)] for (step, reason), number in dropped.items() if number]
    return _table("step | reason | rows", rows) if rows else "None."


def _citation(own: str | None) -> str:
    return "\n\n".join(f"```bibtex\n{entry}\n```" for entry in (_PAPER, own) if entry)


def _table(head: str, rows: Iterable[Iterable[Any]]) -> str:
    lines = [f"| {head} |", "|" + " --- |" * len(head.split(" | "))]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _python(call: str) -> str:
    return f"```python\nfrom datasets import load_dataset\n\n{call}\n```"


def _code(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "`" + " ".join(text.replace("`", "'").split()) + "`"


def _count(number: int | None) -> str:
    return "not counted" if number is None else f"{number:,}"


def split_card(card: str) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Split a card into its front matter and its sections; text before the first has heading `""`.

    Raises:
        FormatError: The front matter is not a YAML mapping.
    """
    match = _FRONT.match(card)
    try:
        front = yaml.safe_load(match.group(1)) if match else {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise FormatError(
            f"the front matter of the card is not YAML ({line}): correct README.md"
        ) from error
    if front is not None and not isinstance(front, dict):
        raise FormatError("the front matter of the card is not a YAML mapping: correct README.md")
    sections: list[tuple[str, list[str]]] = [("", [])]
    in_code = False
    for line in (card[match.end() :] if match else card).splitlines():
        if _FENCE.match(line):
            in_code = not in_code
        if line.startswith("## ") and not in_code:
            sections.append((line[3:].strip(), []))
        else:
            sections[-1][1].append(line)
    return front or {}, [(heading, "\n".join(lines).strip()) for heading, lines in sections]


def merge_cards(
    front: Mapping[str, Any],
    sections: list[tuple[str, str]],
    before: str,
    *,
    generated: Sequence[str] = HEADINGS,
) -> str:
    """Assemble a card, and keep the parts of the earlier card that were written by hand.

    Raises:
        FormatError: The front matter of the earlier card is not a YAML mapping.
    """
    old_front, old_sections = split_card(before)
    merged = list(sections)
    anchor = ""
    for old_heading, text in old_sections:
        heading = _EARLIER_HEADINGS.get(old_heading, old_heading)
        names = [name for name, _ in merged]
        if heading and heading not in generated:
            place = names.index(anchor) if anchor in names else len(names) - 1
            merged.insert(place + 1, (heading, text))
            anchor = heading
        elif heading in names:
            anchor = heading
    head = yaml.safe_dump(
        {**front, **{k: v for k, v in old_front.items() if k not in front}},
        sort_keys=False,
        allow_unicode=True,
    )
    texts = [f"## {heading}\n\n{text}".rstrip() if heading else text for heading, text in merged]
    return f"---\n{head}---\n\n" + "\n\n".join(text for text in texts if text) + "\n"
