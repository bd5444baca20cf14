"""Builder of `load_dataset("delia_mix", ratio=4, cache="my-cache")`: a task mixed with pairs."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from delia_data._version import __version__
from delia_data.builders._base import DeliaBuilder, DeliaConfig, Location, locate_cache, read_task
from delia_data.errors import InputError, RatioError, SettingsError
from delia_data.mixing import MixOptions, OnShort, Order, config_name, mix, parse_ratio, schema
from delia_data.outputs import canonical_json
from delia_data.records import Format

if TYPE_CHECKING:
    from delia_data.hub import Published

_PREFIX: Final = "ratio-"
_PUBLISHED_SETTINGS: Final = frozenset({"ratio", "repo", "revision", "format"})
_MIX_OPTIONS: Final = frozenset(field.name for field in dataclasses.fields(MixOptions))
_EXAMPLE: Final = 'such as ratio=4, or the name "ratio-4"'


def _ratio(name: str, ratio: Any) -> float:
    """Return the ratio from the configuration's name or from `ratio=`."""
    if name == "default":
        if ratio is None:
            raise RatioError(f"delia_mix was given no ratio: give one, {_EXAMPLE}")
        return parse_ratio(ratio)
    if not name.startswith(_PREFIX):
        raise InputError(f"delia_mix has no configuration {name!r}: give a ratio, {_EXAMPLE}")
    named = parse_ratio(name.removeprefix(_PREFIX))
    if ratio is not None and parse_ratio(ratio) != named:
        raise RatioError(f"the name {name!r} and ratio={ratio!r} disagree: give only one of them")
    return named


@dataclass
class DeliaMixConfig(DeliaConfig):
    """Settings of a mixture.

    Attributes:
        ratio: Pairs per task row. The configuration's name can contain it instead: `"ratio-4"`.
        task: Task folder; file, glob, folder or URL of task rows; or name of a bundled task. None
            for the bundled task.
        cache: Cache folder, or a file, glob, folder or URL of pairs. None or `"bundled"` for the
            bundled cache.
        seed: Seed of selection and order, and of the bundled task's wordings.
        order, format, on_short, epochs, epoch, contrast, template_options: As for `mix`.
        token: Special token, `""` for a task without one; None for that of the task, which is
            `<sep>` for a file.
        repo: Repository written by `delia push`, such as `"org/name"`. Loads its mixture of this
            ratio with its settings.
        revision: Version of the repository, such as `"v1.2.0"`; None for the newest.

    Raises:
        RatioError: The ratio is missing, wrong, or differs from that of the name.
        InputError: The name is not of the form `ratio-<number>`, or a revision has no repository.
        SettingsError: A setting is given that the published mixture already has.
    """

    ratio: float | None = None
    task: Location | None = None
    cache: Location | None = None
    seed: int = 0
    order: Order = "shuffled"
    format: Format = "messages"
    on_short: OnShort = "error"
    epochs: int = 1
    epoch: int | None = None
    contrast: float | None = None
    template_options: dict[str, Any] | None = None
    token: str | None = None
    repo: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        self.ratio = _ratio(str(self.name), self.ratio)
        self.name: str = config_name(self.ratio)
        super().__post_init__()
        self._check_repo()
        self.published: Published | None = None

    def _check_repo(self) -> None:
        """Refuse settings that a published mixture has, and a revision without a repository."""
        if self.repo is None:
            if self.revision is not None:
                raise InputError(
                    f"delia_mix has no revisions of its own ({self.revision!r} was given): "
                    "leave revision= out, or name a published repository as repo="
                )
            return
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        given = ", ".join(
            name
            for name, value in self.settings().items()
            if name not in _PUBLISHED_SETTINGS and value != defaults[name]
        )
        if given:
            raise SettingsError(
                f"{self.repo} has its own {given}: leave {given} out, or delia pull it and mix "
                "its task and cache"
            )

    def sha256(self) -> str:
        """Hash the settings and inputs, or the commit of a published mixture.

        Raises:
            InputError: An input does not exist or cannot be read.
            RatioError: The version has no mixture of this ratio.
            HubError: The Hub refused the request or could not be reached.
        """
        if self.repo is None:
            return super().sha256()
        if self.published is None:
            # Here, because the import takes a while.
            from delia_data.hub import find_version, published_mixture

            # Requests the newest commit. If the Hub cannot be reached, an old commit is not used.
            revision = "" if self.revision is None else f"@{self.revision}"
            self.published = find_version(f"{self.repo}{revision}")
            manifest = published_mixture(self.published, float(self.ratio or 0))
            self.format = manifest.settings["format"]
        content = [__version__, self.repo, self.published.commit, self.name]
        return hashlib.sha256(canonical_json(content)).hexdigest()


class DeliaMix(DeliaBuilder):
    """Builder of a mixture: `train`, and `test` if the task has held-out rows.

    `info.description` is the manifest as JSON: settings, row counts by source, dropped rows by
    reason.
    """

    BUILDER_CONFIG_CLASS = DeliaMixConfig
    # For get_dataset_config_names; any other ratio-<number> works as well.
    BUILDER_CONFIGS: ClassVar = [DeliaMixConfig(ratio=ratio) for ratio in (4, 65, 260)]

    def _info(self) -> datasets.DatasetInfo:
        config = self.config
        columns = schema(config.format, template_options=config.template_options)
        features = datasets.Features.from_arrow_schema(columns)
        return datasets.DatasetInfo(features=features)

    def _set_features(self, columns: pa.Schema) -> None:
        if self.info.features == self._info().features:  # features= were not given
            self.info.features = datasets.Features.from_arrow_schema(columns)

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        config = self.config
        if config.published is not None:
            from delia_data.hub import download_parts, published_mixture

            manifest = published_mixture(config.published, config.ratio)
            self.info.description = manifest.model_dump_json()
            folder = download_parts(config.published, [config.name]) / config.name
            splits = ["train", "test"] if manifest.rows.get("test") else ["train"]
            tables = {split: _read_split(folder, split) for split in splits}
            self._set_features(tables["train"].schema)
            return self._splits(tables)
        task = read_task(config.task, token=config.token, seed=config.seed)
        alone = config.ratio == 0 and config.cache is None
        mixture = mix(
            task,
            [] if alone else locate_cache(config.cache),
            **{name: value for name, value in config.settings().items() if name in _MIX_OPTIONS},
        )
        self.info.description = mixture.manifest.model_dump_json()
        self._set_features(mixture.schema)
        test = {} if mixture.test is None else {"test": mixture.test}
        return self._splits({"train": mixture, **test})


def _read_split(folder: Path, split: str) -> pa.Table:
    """Return the rows of a split of a mixture folder, in their order."""
    return pa.concat_tables(
        pq.read_table(file) for file in sorted(folder.glob(f"{split}*.parquet"))
    )
