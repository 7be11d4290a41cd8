"""What the package imports is what its metadata declares."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Imported where Parquet, Arrow, object storage, a database, a cluster, an S3 store of the sandbox or the plugin is used
OPTIONAL = {
    "arro3",
    "boto3",
    "botocore",
    "distributed",
    "duckdb",
    "nanoarrow",
    "obstore",
    "opentelemetry",
    "psycopg",
    "pyarrow",
    "pytest",
}


def imported() -> set[str]:
    """The top-level names of all absolute imports that are neither the standard library's nor our own."""
    found: set[str] = set()
    for file in (ROOT / "bulkpull").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                found |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"bulkpull", "compression", "_typeshed"}


def declared() -> set[str]:
    """The first part of each required distribution's name, which is what it is imported by."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = (re.match(r"[A-Za-z0-9_-]+", line) for line in project["dependencies"])
    return {name[0] for name in names if name}


def test_every_import_is_declared_and_every_dependency_is_imported() -> None:
    assert imported() - OPTIONAL == declared()
