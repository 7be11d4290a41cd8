"""The examples whose libraries are large, which `make examples` installs and runs; see test_examples for the others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bulkpull.sandbox import Sandbox
from tests.examples.test_examples import EXAMPLES, FEBRUARY, JANUARY, TIMEOUT_S, ids, run, sandbox

__all__ = ["sandbox"]


def test_dlt_resource_pulls_what_is_new(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    monkeypatch.setenv("RUNTIME__DLTHUB_TELEMETRY", "false")
    assert run("dlt_resource.py", "2024-01-01", "2024-02-01").stdout == "[(3, 3)]\n"
    sandbox.rows = [*JANUARY, {"id": "late", "created_time": "2024-01-14T23:00:00Z"}, FEBRUARY]
    assert run("dlt_resource.py", "2024-01-01", "2024-03-01").stdout == "[(5, 5)]\n"


def test_dagster_materializes_a_month(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = """
from dagster import materialize
from dagster_asset import activity
result = materialize([activity], partition_key="2024-01-01")
[made] = result.asset_materializations_for_node("activity")
print(made.metadata["rows"].value)
"""
    monkeypatch.setenv("PYTHONPATH", f"{EXAMPLES}{os.pathsep}{EXAMPLES.parent}")
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=4 * TIMEOUT_S, check=True
    )
    assert done.stdout == "3\n"
    assert ids(tmp_path / "activity" / "2024-01.csv") == ["a", "b", "c"]
