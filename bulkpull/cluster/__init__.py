"""Beyond one machine: the same pull, whose downloads and merge run on the workers of a Dask cluster.

One coordinator plans, launches, polls and keeps the journal. Each part becomes a task that downloads it and divides its
rows into buckets by a hash of the id; each bucket becomes a task that deduplicates its rows in the order of the merge,
and writes them as Parquet. All rows of one id are in one bucket, so buckets need nothing of each other.
"""

from typing import TYPE_CHECKING

from bulkpull.lazy import lazily

if TYPE_CHECKING:
    from bulkpull.cluster.pulling import pull
    from bulkpull.cluster.shared import shared_cluster
else:
    __getattr__, __dir__ = lazily(__name__, {"pulling": ("pull",), "shared": ("shared_cluster",)})

__all__ = ["pull", "shared_cluster"]
