"""The client of the Clickwrap API: routes, response models, filters, quota."""

from typing import TYPE_CHECKING

from bulkpull.lazy import lazily

if TYPE_CHECKING:
    from bulkpull.clickwrap.client import Clickwrap
    from bulkpull.clickwrap.defaults import BASE_URL, read_token_file
else:
    __getattr__, __dir__ = lazily(__name__, {"client": ("Clickwrap",), "defaults": ("BASE_URL", "read_token_file")})

__all__ = ["BASE_URL", "Clickwrap", "read_token_file"]
