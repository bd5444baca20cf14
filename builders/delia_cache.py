"""`load_dataset("delia_cache", cache="my-cache")`: the pairs that the model itself wrote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import datasets
import pyarrow as pa

from delia_data.builders._base import DeliaBuilder, DeliaConfig, Location, locate_cache
from delia_data.mixing import schema
from delia_data.mixing.store import open_cache

_SCHEMA: Final = pa.schema([schema("messages").field(name) for name in ("messages", "source_id")])


@dataclass
class DeliaCacheConfig(DeliaConfig):
    """Settings of a cache.

    Attributes:
        cache: A cache folder; or a file, glob, folder or URL of pairs in any row format. None for
            the bundled one.
    """

    cache: Location | None = None


class DeliaCache(DeliaBuilder):
    """Builder of a cache: `train`, with every pair in the order in which it stands there."""

    BUILDER_CONFIG_CLASS = DeliaCacheConfig

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=datasets.Features.from_arrow_schema(_SCHEMA))

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        rows = open_cache(locate_cache(self.config.cache))
        if rows.path is None:
            whole = pa.Table.from_batches(rows.with_source_ids(0, rows.num_rows), _SCHEMA)
            return self._splits({"train": whole})
        return self._splits({"train": rows})
