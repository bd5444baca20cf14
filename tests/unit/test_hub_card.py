"""Cards follow the manifest, load with `datasets`, and keep sections written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from delia_data.errors import FormatError
from delia_data.hub.card import HEADINGS, make_card, split_card
from delia_data.outputs import Manifest

MIXTURE: dict[str, Any] = {
    "form": "plain",
    "settings": {"ratio": 4.0, "format": "messages"},
    "rows": {"task": 10, "cache": 40, "test": 5},
    "dropped": {"duplicate": 2},
    "details": {"tokens": {"task": 700, "cache": 2800}},
    "bytes": 5000,
    "pairs_in_cache": 40,
}


def manifest(**over: Any) -> Manifest:
    details: dict[str, Any] = {
        "cache": {
            "settings": {
                "engine": "mock",
                "model": {"name": "tiny", "weights_sha256": "abc", "chat_template_sha256": "def"},
                "sampling": {"temperature": 0.7, "top_p": 0.95},
            },
            "rows": {"kept": 60},
            "dropped": {"too_short": 3},
            "details": {"tokens": 1234},
            "bytes": 9000,
        },
        "task": {
            "settings": {"name": "my-task", "token": "<sep>"},
            "details": {"wordings": 8},
            "dropped": {"no_token": 1},
            "rows": {"train": 10, "test": 5},
            "examples": ["Give <sep> for `x`."],
            "bytes": 1000,
        },
        "mixtures": {"ratio-4": MIXTURE},
        "shared": {
            "once_bytes": 10000,
            "plain_copies_bytes": 5000,
            "pairs_in_mixtures": 40,
            "of_these_in_cache": 40,
        },
        "citation": None,
        "why": "the first version",
    }
    details |= over
    return Manifest(
        kind="publication",
        settings={"licence": "mit", "version": "1.2.0"},
        inputs={"content": "0123abcd"},
        details={key: value for key, value in details.items() if value is not None},
        files={"ratio-4/train.parquet": "ab"},
    )


def card(before: str = "", **over: Any) -> str:
    return make_card("org/name", manifest(**over), before)


def test_a_card_has_all_that_is_worth_knowing() -> None:
    text = card()
    for part in (
        "weights sha256: `abc`",
        "chat template sha256: `def`",
        "temperature 0.7, top_p 0.95",
        "1,234 tokens of answers",
        "special token: `<sep>`",
        "wordings: `8`",
        "- `Give <sep> for 'x'.`",
        "| `ratio-4` | 4 | 10 | 40 | 5 | 700 | 2,800 | 5.0 kB |",
        "| sampling | too_short | 3 |",
        "| diversifying | no_token | 1 |",
        "| mixing ratio-4 | duplicate | 2 |",
        "`0123abcd`",
        "2408.10841",
        'load_dataset("org/name", "ratio-4", revision="v1.2.0")',
        "hf://datasets/org/name@v1.2.0/ratio-4/train*.parquet",
        "delia export my-folder/ratio-4 my-training --for axolotl",
        "delia pull org/name@v1.2.0 my-folder",
    ):
        assert part in text, part
    headings = [heading for heading, _ in split_card(text)[1] if heading]
    assert headings == list(HEADINGS)


def test_a_card_lists_earlier_settings_of_a_cache() -> None:
    cache = manifest().details["cache"]
    earlier = [{"pairs": 1500, "sampling": {"top_p": 0.95, "max_tokens": 64}, "filters": []}]
    details = {**cache["details"], "earlier_settings": earlier}
    text = card(cache={**cache, "details": details})
    assert "- sampling of the first 1,500: top_p 0.95, max_tokens 64\n" in text
    assert "sampling of the first" not in card()


def test_the_front_matter_names_the_files_of_plain_mixtures() -> None:
    front, _ = split_card(card())
    assert front["license"] == "mit"
    assert [config["config_name"] for config in front["configs"]] == ["ratio-4", "cache"]
    assert front["configs"][0]["data_files"] == [
        {"split": "train", "path": "ratio-4/train*.parquet"},
        {"split": "test", "path": "ratio-4/test*.parquet"},
    ]


def test_loading_lines_are_readable_by_the_tools() -> None:
    blocks = card().split("```")
    (trl,) = [yaml.safe_load(b.removeprefix("yaml")) for b in blocks if b[:4] == "yaml"]
    assert trl["datasets"][0]["path"] == "parquet"


def test_a_cache_alone_has_a_card() -> None:
    text = card(mixtures={}, task=None)
    assert 'load_dataset("org/name", "cache"' in text
    assert "## Task" not in text


BY_HAND = """---
license: cc0-1.0
pretty_name: My pairs
---

# Old title

## Mixtures

old table

## Ethics

No animals were hurt.

```markdown
## Not a heading
```

### Details

More.

## What was dropped

old table

## Loading

old lines

## Contact

Write to us.
"""


class TestMerge:
    def test_sections_and_keys_written_by_hand_stay(self) -> None:
        front, sections = split_card(card(before=BY_HAND))
        texts = dict(sections)
        assert "No animals were hurt." in texts["Ethics"]
        assert "## Not a heading" in texts["Ethics"]
        assert "### Details" in texts["Ethics"]
        assert texts["Contact"] == "Write to us."
        assert "old table" not in texts["Mixtures"] + texts["Dropped rows"]
        assert not {"Loading", "What was dropped"} & set(texts)  # headings of version 0.1.0
        assert front["pretty_name"] == "My pairs"
        assert front["license"] == "mit"

    def test_sections_written_by_hand_keep_their_position(self) -> None:
        names = [name for name, _ in split_card(card(before=BY_HAND))[1]]
        assert names.index("Ethics") == names.index("Mixtures") + 1
        assert names.index("Contact") == names.index("Usage") + 1

    def test_merging_again_changes_nothing(self) -> None:
        once = card(before=BY_HAND)
        assert card(before=once) == once

    def test_a_generated_section_that_is_gone_does_not_come_back(self) -> None:
        old = card()
        new = card(before=old, task=None)
        assert "## Task" in old
        assert "## Task" not in new

    def test_front_matter_that_is_no_mapping_is_an_error(self) -> None:
        for front in ("[a", "- a"):
            with pytest.raises(FormatError, match=r"README\.md"):
                card(before=f"---\n{front}\n---\nText\n")


def test_datasets_reads_the_configurations(tmp_path: Path) -> None:
    from datasets import get_dataset_config_names

    for name in ("ratio-4/train.parquet", "ratio-4/test.parquet", "cache/pairs-00000.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "README.md").write_text(card(), encoding="utf-8")
    assert sorted(get_dataset_config_names(str(tmp_path))) == ["cache", "ratio-4"]
