"""What all tests share: the bridge that lets aioresponses speak to aiohttp 3.14, and a sandbox's client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from unittest.mock import Mock

import aiohttp
import pytest
from aioresponses import aioresponses
from hypothesis import settings

# pytest-asyncio asks for the current event loop before there is one, and Python 3.11 makes it: nobody would close it.
asyncio.set_event_loop(None)

# Machines that run tests are noisy: a slow example is no failure.
settings.register_profile("noisy", deadline=None)
settings.load_profile("noisy")


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[aioresponses]:
    """Answers to aiohttp's requests. aioresponses 0.7.9 does not give `stream_writer`, which aiohttp 3.14 asks for
    (pnuckowski/aioresponses issue 289)."""
    bridged = partial(aiohttp.ClientResponse, stream_writer=Mock(output_size=0))
    monkeypatch.setattr("aioresponses.core.ClientResponse", bridged)
    with aioresponses() as answers:
        yield answers
