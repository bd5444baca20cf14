"""What a push needs at hand: the parts that are given, those that are mixed, and those that follow.

given folders ──▶ mixtures of the asked ratios ──▶ index, where lean is asked for
│
└── the cache has grown ──▶ every mixture that is published already, mixed again
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from delia_data.errors import InputError
from delia_data.hub.client import Retry
from delia_data.hub.lean import write_lean
from delia_data.hub.parts import CACHE, TASK, Part, cache_ids, check_mixture, mixed
from delia_data.hub.pictures import can_draw, draw
from delia_data.hub.publication import check_complete, outdated, parts_of_path
from delia_data.hub.remote import Remote, fetch
from delia_data.hub.scanning import check_secrets
from delia_data.mixing import config_name, read_task_rows
from delia_data.outputs import read_manifest
from delia_data.sampling.embeddings import Embed

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Options:
    """What a push can be asked for.

    Attributes:
        ratios: Mixtures to make of the given task and cache.
        licence: The licence, as the Hub names it, such as `apache-2.0`; None for that of the
            version before. There is no default: it follows from the model's and the task's.
        version: The version to publish; None to decide by what changed.
        bump: `"auto"`, or the least step: `"patch"`, `"minor"` or `"major"`.
        lean: Publish mixtures as an index over the cache.
        private: Make a new repository private.
        create_pr: Propose it, as a pull request, in place of publishing it.
        allow: Kinds of secrets, or patterns of values, that may be in the rows.
        citation: What to cite beside the paper, as BibTeX.
        mixing: Settings of the asked mixtures beside the ratio, such as `seed`.
        pictures: Draw pictures for the card, where matplotlib is installed.
        tokenizer: What counts the tokens of the mixtures that are made, and of the card's rows.
    """

    ratios: tuple[float, ...] = ()
    licence: str | None = None
    version: str | None = None
    bump: str = "auto"
    lean: bool = False
    private: bool = False
    create_pr: bool = False
    allow: tuple[str, ...] = ()
    citation: str | None = None
    mixing: Mapping[str, Any] = field(default_factory=dict)
    pictures: bool = True
    tokenizer: PreTrainedTokenizerBase | None = None


class Workshop:
    """The parts of one push; what was made once is kept for the next round."""

    def __init__(self, given: Mapping[str, Part], options: Options, folder: Path) -> None:
        """Begin with what is given.

        Args:
            given: Parts by name.
            options: What is asked for.
            folder: Where to make what is to be made.

        Raises:
            InputError: A ratio is asked for without a task and a cache.
        """
        self.given = dict(given)
        self.options = options
        self.folder = folder
        self.pairs: dict[str, int] = {}
        self._made: dict[tuple[str, ...], Part] = {}
        self._scanned: dict[frozenset[tuple[str, str]], Counter[str]] = {}
        self._pictures: dict[tuple[str, ...], dict[str, bytes]] = {}
        if not given:
            raise InputError("nothing is given to publish: give folders")

    def parts(self, api: HfApi, repo: str, remote: Remote | None, retry: Retry) -> dict[str, Part]:
        """Every part that is to be sent, given what lies on the Hub.

        Args:
            api: The client.
            repo: The repository.
            remote: What lies there.
            retry: How often downloads are tried.

        Raises:
            InputError: Parts do not fit each other, or one is missing.
            RatioError: The cache is too small for a ratio.
        """
        before = remote.manifest if remote else None
        parts = dict(self.given)
        again = outdated(parts, before)
        whole = again or self.options.ratios or set(parts) - {CACHE, TASK}
        if remote is not None and before is not None and (whole or self._changes(parts, remote)):
            for name in (CACHE, TASK):
                if name in before.details and name not in parts:
                    parts[name] = self._fetched(api, repo, remote, name, retry)
        asked, mixing = self.options.ratios, self.options.mixing
        wanted = {config_name(ratio): {"ratio": ratio, **mixing} for ratio in asked}
        wanted = {name: m["settings"] for name, m in again.items() if name not in wanted} | wanted
        check_complete(parts, [settings["ratio"] for settings in wanted.values()])
        for name, settings in wanted.items():
            if name in self.given:
                raise InputError(f"{name} is given as a folder and as a ratio: leave one out")
            lean = again[name]["form"] == "lean" if name in again else self.options.lean
            parts[name] = self._mixed(parts, name, settings, lean)
        return {name: self._checked(part, parts) for name, part in parts.items()}

    def scanned(self, parts: Mapping[str, Part], login: str | None) -> Counter[str]:
        """Scan what is about to leave, once; see `check_secrets`."""
        key = frozenset((name, str(part.folder)) for name, part in parts.items())
        if key not in self._scanned:
            self._scanned[key] = check_secrets(parts, self.options.allow, login)
        return self._scanned[key]

    def pictures(self, parts: Mapping[str, Part], embed: Embed | None) -> dict[str, bytes]:
        """The pictures of the parts; none where matplotlib is not installed."""
        if not (self.options.pictures and can_draw() and {CACHE, TASK} & set(parts)):
            return {}
        key = tuple(str(parts[name].folder) for name in (CACHE, TASK) if name in parts)
        if key not in self._pictures:
            dropped = parts[CACHE].manifest.dropped if CACHE in parts else {}
            self._pictures[key] = draw(
                parts, dropped, embed=embed, tokenizer=self.options.tokenizer
            )
        return self._pictures[key]

    def _changes(self, parts: Mapping[str, Part], remote: Remote) -> bool:
        """Whether the given cache or task differs from the one on the Hub."""
        return any(
            remote.files.get(path) != sha
            for name in (CACHE, TASK)
            if name in parts
            for path, sha in parts[name].hashes().items()
        )

    def _fetched(self, api: HfApi, repo: str, remote: Remote, name: str, retry: Retry) -> Part:
        files = {p: sha for p, sha in remote.files.items() if parts_of_path(p) == name}
        root = fetch(api, repo, remote.commit, files, retry=retry)
        return Part(name, root / name, read_manifest(root / name))

    def _mixed(
        self, parts: Mapping[str, Part], name: str, settings: Mapping[str, Any], lean: bool
    ) -> Part:
        task, cache = parts[TASK], parts[CACHE]
        key = (name, str(task.folder), str(cache.folder), str(sorted(settings.items())), str(lean))
        if key not in self._made:
            folder = self.folder / str(len(self._made))
            part = mixed(task, cache, settings, folder, self.options.tokenizer)
            self._made[key] = write_lean(part, task, cache, folder) if lean else part
        return self._made[key]

    def _checked(self, part: Part, parts: Mapping[str, Part]) -> Part:
        """Check a mixture against its task and cache, and turn a given one lean where asked to."""
        if part.name in (CACHE, TASK):
            return part
        if part.name not in self.pairs:
            task = read_task_rows(parts[TASK].folder) if TASK in parts else None
            ids = cache_ids(parts[CACHE].folder) if CACHE in parts else None
            self.pairs[part.name] = check_mixture(part, task, ids)
        if self.options.lean and part.form == "plain":
            check_complete(parts, [part.manifest.settings["ratio"]])
            key = (part.name, str(part.folder), "lean")
            if key not in self._made:
                folder = self.folder / str(len(self._made))
                self._made[key] = write_lean(part, parts[TASK], parts[CACHE], folder)
            return self._made[key]
        return part


def check_licence(options: Options, remote: Remote | None) -> str:
    """The licence to publish under.

    Raises:
        InputError: None was ever given.
    """
    before = remote.manifest.settings.get("licence") if remote and remote.manifest else None
    licence = options.licence or before
    if not licence:
        raise InputError(
            "no licence was given, and none is guessed: give --licence, such as apache-2.0; the "
            "licences of the model that wrote the pairs and of the task's rows bind you"
        )
    return str(licence)


def check_private(options: Options, remote: Remote | None, repo: str) -> None:
    """Refuse to send to a public repository what is meant to be private.

    Raises:
        InputError: The repository is public.
    """
    if options.private and remote is not None and not remote.private:
        raise InputError(
            f"{repo} is public, and --private was given: make it private in its settings, or give "
            "the name of a repository that is not there yet"
        )
