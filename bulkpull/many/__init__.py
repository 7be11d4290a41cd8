"""Several pulls in one go: each with its own source, options and output, some of them at a time."""

from typing import TYPE_CHECKING

from bulkpull.lazy import lazily

if TYPE_CHECKING:
    from bulkpull.many.job import Job, JobResult
    from bulkpull.many.pulling import pull_many
else:
    __getattr__, __dir__ = lazily(__name__, {"job": ("Job", "JobResult"), "pulling": ("pull_many",)})

__all__ = ["Job", "JobResult", "pull_many"]
