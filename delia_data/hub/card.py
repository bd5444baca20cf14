"""The card: what a publication is, worded from its manifest alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from delia_data.hub.loading import loading
from delia_data.hub.parts import CACHE, TASK
from delia_data.hub.sections import join_card, merge_cards
from delia_data.outputs import Manifest

HEADINGS: Final = (
    "Mixtures",
    "Loading",
    "The model that wrote the pairs",
    "The task",
    "What was dropped",
    "Pictures",
    "This version",
    "Licence",
    "Citation",
)
_COUNTED: Final = ("task", "cache")
_NOTE: Final = (
    "<!-- delia push writes the sections named {names} anew each time. Sections of your own, with "
    "other headings, stay. -->"
)
_PAPER: Final = """@misc{delia2024,
  title = {DELIA: Diversity-Enhanced Learning for Instruction Adaptation in Large Language Models},
  author = {Zeng, Yuanhao and Ren, Fei and Zhou, Xinpeng and Wang, Yihang and Shao, Yingxia},
  year = {2024},
  eprint = {2408.10841},
  archivePrefix = {arXiv}
}"""
_PICTURES: Final = {
    "lengths.png": "Lengths of the rows, by source",
    "map.png": "Where the pairs and the task rows lie: rows that say alike things are near",
    "dropped.png": "Pairs that were accepted, and those that were dropped, by reason",
}


def make_card(repo: str, manifest: Manifest, pictures: Iterable[str], before: str) -> str:
    """Word the card, and take over what a person wrote into the one before.

    Args:
        repo: The repository.
        manifest: The publication's manifest.
        pictures: Paths of its pictures.
        before: The card before; empty where there was none.

    Raises:
        FormatError: The front matter of the card before is no YAML.
    """
    version = str(manifest.settings["version"])
    texts = {
        "Mixtures": _mixtures(manifest),
        "Loading": loading(repo, manifest),
        "The model that wrote the pairs": _model(manifest.details.get(CACHE)),
        "The task": _task(manifest.details.get(TASK)),
        "What was dropped": _dropped(manifest),
        "Pictures": _pictures(pictures),
        "This version": _version(manifest),
        "Licence": f"`{manifest.settings['licence']}`, as the publisher gave it.",
        "Citation": _citation(manifest),
    }
    head = (
        f"# {repo.split('/')[1]}, v{version}\n\n{_NOTE.format(names=', '.join(HEADINGS))}\n\n"
        "Data after DELIA ([arXiv 2408.10841](https://arxiv.org/abs/2408.10841)): a small task, "
        "every row in its own wording of the instruction, mixed with pairs that the model itself "
        "wrote. Made with delia_data."
    )
    sections = [("", head), *((name, text) for name, text in texts.items() if text)]
    return merge_cards(join_card(_front(manifest), sections), before, HEADINGS)


def _front(manifest: Manifest) -> dict[str, Any]:
    configs = []
    for name, mixture in manifest.details["mixtures"].items():
        if mixture["form"] == "plain":
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
    tokens = any("tokens" in mixture["details"] for mixture in mixtures.values())
    rows = [
        [
            f"`{name}`",
            f"{m['settings']['ratio']:.15g}",
            *(_count(m["rows"].get(key)) for key in ("task", "cache", "test")),
            *(_count(m["details"].get("tokens", {}).get(key)) for key in _COUNTED if tokens),
            m["form"],
            size_of(m["bytes"]),
        ]
        for name, m in mixtures.items()
    ]
    counted = " | task tokens | pair tokens" if tokens else ""
    shared = manifest.details["shared"]
    table = _table(
        f"configuration | ratio | task rows | pairs | held-out{counted} | form | size",
        rows,
    )
    if CACHE not in manifest.details:
        return f"{table}\n\nThe ratio is pairs for each task row."
    return (
        f"{table}\n\nThe ratio is pairs for each task row. {shared['of_these_in_cache']:,} of the "
        f"{shared['pairs_in_mixtures']:,} pairs in the mixtures lie in `cache/` as well; cache and "
        f"task are stored once ({size_of(shared['once_bytes'])}), the plain mixtures take "
        f"{size_of(shared['plain_copies_bytes'])} beside them and the lean ones "
        f"{size_of(shared['lean_indexes_bytes'])}."
    )


def _model(cache: Mapping[str, Any] | None) -> str:
    if cache is None:
        return ""
    settings = dict(cache["settings"])
    model = settings.pop("model", None)
    told = model if isinstance(model, dict) else {"name": model}
    sampling = settings.pop("sampling", None) or {}
    lines = [f"- {key.replace('_', ' ')}: {_code(value)}" for key, value in told.items()]
    drawn = ", ".join(f"{key} {value}" for key, value in sampling.items())
    lines += [f"- sampling: {drawn}"] if drawn else []
    lines += [f"- {key.replace('_', ' ')}: {_code(value)}" for key, value in settings.items()]
    kept, tokens = cache["rows"].get("kept"), cache["details"].get("tokens")
    if kept is not None:
        written = f", {_count(tokens)} tokens of answers" if isinstance(tokens, int) else ""
        lines.append(f"- pairs: {_count(kept)}{written}")
    return "\n".join(lines)


def _task(task: Mapping[str, Any] | None) -> str:
    if task is None:
        return ""
    settings, details = task["settings"], task["details"]
    lines = [f"- {key}: {_code(value)}" for key, value in settings.items() if key != "token"]
    lines.append(f"- special token: {_code(settings.get('token') or 'none')}")
    lines += [f"- {key}: {_code(value)}" for key, value in details.items()]
    lines.append(f"- rows: {', '.join(f'{n} {s}' for s, n in task['rows'].items())}")
    shown = "\n".join(f"- {_code(text)}" for text in task.get("examples", ()))
    return "\n".join(lines) + (f"\n\nSome rows in their wordings:\n\n{shown}" if shown else "")


def _dropped(manifest: Manifest) -> str:
    kinds = {"while sampling": CACHE, "of the wordings": TASK}
    dropped = {
        (when, reason): number
        for when, name in kinds.items()
        for reason, number in manifest.details.get(name, {}).get("dropped", {}).items()
    }
    for name, mixture in manifest.details["mixtures"].items():
        dropped |= {(f"mixing {name}", r): n for r, n in mixture["dropped"].items()}
    rows = [[when, reason, _count(number)] for (when, reason), number in dropped.items() if number]
    return _table("when | reason | rows", rows) if rows else "Nothing."


def _pictures(pictures: Iterable[str]) -> str:
    there = [path for path in sorted(pictures) if path.rsplit("/", 1)[-1] in _PICTURES]
    return "\n\n".join(f"![{_PICTURES[path.rsplit('/', 1)[-1]]}]({path})" for path in there)


def _version(manifest: Manifest) -> str:
    return (
        f"Version {manifest.settings['version']}: {manifest.details['why']}. The SHA-256 of its "
        f"content is `{manifest.inputs['content']}`; `manifest.json` has those of all files.\n\n"
        "```\ndelia pull NAME@TAG        checks them\ndelia diff NAME@TAG NAME@TAG\n```"
    )


def _citation(manifest: Manifest) -> str:
    own = manifest.details.get("citation")
    return f"```bibtex\n{_PAPER}\n```" + (f"\n\n```bibtex\n{own}\n```" if own else "")


def _table(head: str, rows: Iterable[Iterable[Any]]) -> str:
    names = head.split(" | ")
    lines = [f"| {head} |", "|" + " --- |" * len(names)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _code(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "`" + " ".join(text.replace("`", "'").split()) + "`"


def _count(number: int | None) -> str:
    return "not counted" if number is None else f"{number:,}"


def size_of(number: float) -> str:
    """A size in bytes, for a person."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"
