"""What all tests share: where they write, and the bridge that lets aioresponses speak to aiohttp 3.14."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import aiohttp
import pytest
from aioresponses import aioresponses
from hypothesis import settings

# pytest-asyncio asks for the current event loop before there is one, and Python 3.11 makes it: nobody would close it.
asyncio.set_event_loop(None)

# Machines that run tests are noisy: a slow example is no failure.
# Fewer examples than hypothesis draws by itself, so that all tests take minutes; `make soak` draws many more
EXAMPLES = int(os.environ.get("BULKPULL_EXAMPLES", "8"))
settings.register_profile("noisy", deadline=None, max_examples=EXAMPLES)
settings.load_profile("noisy")

# Temporary files go to memory where there is enough: the suite waits for thousands of syncs of the disk otherwise.
# The processes that tests start inherit it. TMPDIR and --basetemp choose another place.
_MEMORY = Path("/dev/shm")  # noqa: S108
_ENOUGH_BYTES = 2 * 2**30  # the 64 MB of an ordinary container are not enough
if "TMPDIR" not in os.environ and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free >= _ENOUGH_BYTES:
    os.environ["TMPDIR"] = str(_MEMORY)
    tempfile.tempdir = None  # chosen again when it is next asked for

# Without bytecode, each of some 200 processes that tests start would compile the package and all that it imports.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    sys.dont_write_bytecode = False


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[aioresponses]:
    """Answers to aiohttp's requests. aioresponses 0.7.9 does not give `stream_writer`, which aiohttp 3.14 asks for
    (pnuckowski/aioresponses issue 289)."""
    bridged = partial(aiohttp.ClientResponse, stream_writer=Mock(output_size=0))
    monkeypatch.setattr("aioresponses.core.ClientResponse", bridged)
    with aioresponses() as answers:
        yield answers
