"""`load_dataset("delia_cache", cache="my-cache")`: the pairs that the model itself wrote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import datasets
import pyarrow as pa

from delia_data.builders._common import DeliaBuilder, DeliaConfig
from delia_data.builders._inputs import Location, locate_cache
from delia_data.builders._parts import FilePart, TablePart
from delia_data.mixing import schema
from delia_data.mixing.sources import pairs_of, shards_of

_SCHEMA: Final = pa.schema([schema("messages").field(name) for name in ("messages", "source_id")])

_BYTES_IN_MEMORY: Final = 32 << 20


@dataclass
class DeliaCacheConfig(DeliaConfig):
    """Settings of a cache.

    Attributes:
        cache: A cache folder, a folder of shards, a file or a glob (JSON Lines, JSON, Parquet,
            Arrow, CSV) of pairs in any row format; None for the bundled one.
    """

    cache: Location | None = None


class DeliaCache(DeliaBuilder):
    """Builder of a cache: `train`, with every pair in the order in which it stands there."""

    BUILDER_CONFIG_CLASS = DeliaCacheConfig

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=datasets.Features.from_arrow_schema(_SCHEMA))

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        files, _ = shards_of(locate_cache(self.config.cache))
        if sum(file.stat().st_size for file in files) > _BYTES_IN_MEMORY:
            return self._splits({"train": FilePart.cut(files)})
        pairs = pa.concat_tables(table for file in files for table in pairs_of(file))
        return self._splits({"train": TablePart.cut(pairs.cast(_SCHEMA))})
