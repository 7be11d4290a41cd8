"""Configuration files, profiles, the environment, and where the token is from."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from bulkpull import UsageError
from bulkpull.cli import cli, token

PRINTS = f"{sys.executable} -c 'print(\" secret-7\\n\")'"


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory, an empty home, and an environment without our variables."""
    for name in [name for name in os.environ if name.startswith("BULKPULL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def config(*arguments: str) -> dict[str, Any]:
    """What `bulkpull config` says."""
    done = run("config", "--json", *arguments)
    assert done.exit_code == 0, done.exception or done.output
    found: dict[str, Any] = json.loads(done.output)
    return found


def refusal(*arguments: str) -> str:
    """The sentence with which a command ends before it does anything."""
    done = run(*(arguments or ("config",)))
    assert isinstance(done.exception, UsageError), done.output
    return str(done.exception)


FILE = """
retry_for = "1m"
profile = "us"
[profiles.us]
retry_for = "2m"
[profiles.eu]
retry_for = "3m"
"""


@pytest.mark.parametrize(
    ("text", "variables", "arguments", "value", "origin"),
    [
        ("", {}, [], "15m", "default"),
        ("retry_for = 60", {}, [], "60", "bulkpull.toml"),
        ("retry-for = '1m'", {}, [], "1m", "bulkpull.toml"),
        (FILE, {}, [], "2m", "bulkpull.toml, profile us"),
        (FILE, {"BULKPULL_PROFILE": "eu"}, [], "3m", "bulkpull.toml, profile eu"),
        (FILE, {"BULKPULL_PROFILE": "eu"}, ["--profile", "us"], "2m", "bulkpull.toml, profile us"),
        (FILE, {"BULKPULL_RETRY_FOR": "4m"}, ["--profile", "us"], "4m", "BULKPULL_RETRY_FOR"),
        (FILE, {"BULKPULL_RETRY_FOR": "4m"}, ["--retry-for", "5m"], "300.0", "--retry-for"),
        (FILE, {"BULKPULL_RETRY_FOR": ""}, [], "2m", "bulkpull.toml, profile us"),
    ],
)
def test_precedence(
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    variables: dict[str, str],
    arguments: list[str],
    value: str,
    origin: str,
) -> None:
    Path("bulkpull.toml").write_text(text)
    for name, content in variables.items():
        monkeypatch.setenv(name, content)
    assert config(*arguments)["options"]["retry_for"] == {"value": value, "origin": origin}


def test_the_first_file_that_exists_is_read(tmp_path: Path) -> None:
    home = tmp_path / "home" / "bulkpull"
    home.mkdir(parents=True)
    named = tmp_path / "named.toml"
    assert config()["file"] is None
    for path, text, name in (
        (home / "config.toml", "exports = 1", str(home / "config.toml")),
        (Path("pyproject.toml"), "[tool.bulkpull]\nexports = 2", "pyproject.toml"),
        (Path("bulkpull.toml"), "exports = 3", "bulkpull.toml"),
    ):
        path.write_text(text)
        assert config()["file"] == name
        assert config()["options"]["exports"] == {"value": text[-1], "origin": name}
    named.write_text("exports = 4")
    assert config("--config", str(named))["options"]["exports"]["value"] == "4"
    Path("bulkpull.toml").unlink()
    Path("pyproject.toml").write_text("[project]\nname = 'bulkpull'\n")
    assert config()["file"] == str(home / "config.toml")


def test_a_command_takes_its_values_from_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("bulkpull.toml").write_text(
        "start = 2024-01-01\nend = 2024-02-01T00:00:00Z\nwindow = '1w'\nfields = ['a', 'b']\njson = true\nout = 'x'\n"
    )
    assert len(json.loads(run("plan").output)["windows"]) == 5
    monkeypatch.setenv("BULKPULL_WINDOW", "1mo")
    assert len(json.loads(run("plan").output)["windows"]) == 1
    monkeypatch.setenv("BULKPULL_JSON", "no")
    assert "1 export, at least 2 requests" in run("plan").output


def test_an_invalid_value_says_where_it_is_from() -> None:
    Path("bulkpull.toml").write_text("[profiles.eu]\nexports = 'many'\n")
    done = run("plan", "--start", "2024-01-01", "--profile", "eu")
    assert done.exit_code == 2
    assert "'--exports': 'many' is not a valid integer" in done.output
    assert "(from bulkpull.toml, profile eu)" in done.output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("exprots = 3", "bulkpull.toml: unknown option 'exprots'. Did you mean exports"),
        ("[profiles.eu]\nexprots = 3", "bulkpull.toml, profile eu: unknown option 'exprots'. Did you mean exports"),
        ("profile = 'ue'\n[profiles.eu]", "bulkpull.toml has no profile 'ue'; it has: eu."),
        ("fresh = true", "unknown option 'fresh'"),
        ("config = 'other.toml'", "unknown option 'config'"),
        ("token = 'secret-7'", "the token must not be in a configuration file"),
        ("token_file = 'a'\ntoken_command = 'b'", "has both token_file and token_command"),
        ("exports = true", "bulkpull.toml: exports must be a value, not true or false"),
        ("overwrite = 1", "bulkpull.toml: overwrite must be true or false"),
        ("exports = {a = 1}", "must be a text, a number, a date, or a list of texts"),
        ("profiles = 1", "profiles must be tables"),
        ("exports = ", "is not valid TOML"),
    ],
)
def test_a_file_that_makes_no_sense_is_a_sentence(text: str, message: str) -> None:
    Path("bulkpull.toml").write_text(text)
    assert message in refusal()
    assert "secret-7" not in refusal()


def test_a_profile_needs_a_file() -> None:
    assert "there is no configuration file, so no profile 'eu'" in refusal("config", "--profile", "eu")
    assert "cannot be read: No such file" in refusal("config", "--config", "missing.toml")
    Path("bulkpull.toml").write_text("[profiles.europe]")
    assert "Did you mean europe?" in refusal("plan", "--start", "today", "--profile", "eurpoe")


def test_a_file_of_another_user_is_read_only_if_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("bulkpull.toml")
    path.write_text("base_url = 'https://elsewhere.example/v1.1'")
    owner = path.stat().st_uid
    path.chmod(0o666)
    assert "can be written by every user, so it is not used" in refusal()
    path.chmod(0o644)
    os.chown(path, owner + 1, -1) if owner == 0 else monkeypatch.setattr("os.geteuid", lambda: owner + 1)
    assert f"belongs to another user (uid {path.stat().st_uid}), so it is not used" in refusal()
    assert "--config bulkpull.toml" in refusal("plan", "--start", "today")
    assert config("--config", "bulkpull.toml")["options"]["base_url"]["value"] == "https://elsewhere.example/v1.1"


def test_a_file_of_another_user_that_is_not_for_us_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("pyproject.toml").write_text("[project]\nname = 'x'")
    Path("pyproject.toml").chmod(0o666)
    os.mkfifo("bulkpull.toml")
    assert config()["file"] is None


def test_what_is_secret_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BULKPULL_BASE_URL", "https://me:secret-7@api.example/v1.1")
    Path("bulkpull.toml").write_text("token_command = 'vault read secret-7'")
    assert "secret-7" not in run("config").output
    options = config()["options"]
    assert options["token_command"]["value"] == "vault ********"
    assert options["token"] == {"value": "********", "origin": "bulkpull.toml"}
    monkeypatch.setenv("BULKPULL_TOKEN", "secret-7")
    assert "secret-7" not in run("config").output
    assert config()["options"]["token"]["origin"] == "BULKPULL_TOKEN"


@pytest.mark.parametrize(
    ("text", "variables", "arguments", "expected"),
    [
        ("", {}, [], None),
        ("token_file = 'f'", {}, [], ("token_file", "f", "bulkpull.toml")),
        ("token_file = 'f'", {"TOKEN_COMMAND": "c"}, [], ("token_command", "c", "BULKPULL_TOKEN_COMMAND")),
        ("", {"TOKEN_COMMAND": "c", "TOKEN_FILE": "f"}, [], ("token_file", "f", "BULKPULL_TOKEN_FILE")),
        ("token_file = 'f'", {"TOKEN": "t", "TOKEN_FILE": "f"}, [], ("token", "t", "BULKPULL_TOKEN")),
        ("", {"TOKEN": "", "TOKEN_FILE": "f"}, [], ("token", "", "BULKPULL_TOKEN")),
        ("", {"TOKEN": "t"}, ["--token-command", "c"], ("token_command", "c", "--token-command")),
        ("token_command = 'c'", {"TOKEN": "t"}, ["--token-file", "f"], ("token_file", "f", "--token-file")),
        (
            "profile = 'p'\ntoken_file = 'f'\n[profiles.p]\ntoken_command = 'c'",
            {},
            [],
            ("token_command", "c", "bulkpull.toml, profile p"),
        ),
    ],
)
def test_the_token_is_from_the_source_with_the_highest_precedence(
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    variables: dict[str, str],
    arguments: list[str],
    expected: tuple[str, str, str] | None,
) -> None:
    Path("bulkpull.toml").write_text(text)
    for name, value in variables.items():
        monkeypatch.setenv(f"BULKPULL_{name}", value)
    root = click.Context(cli)
    command = cli.get_command(root, "fields")
    assert command is not None
    with command.make_context("fields", ["--site", "1", *arguments], parent=root) as context:
        assert token.token_source(context) == expected


async def read(command: str) -> str:
    return await token.read_token(token.TokenSource("token_command", command, "BULKPULL_TOKEN_COMMAND"))


async def test_a_command_prints_the_token() -> None:
    assert await read(PRINTS) == "secret-7"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (f"{sys.executable} -c \"print('secret-7'); raise SystemExit(3)\"", "failed with exit code 3"),
        (f"{sys.executable} -c 'import time; print(\"secret-7\", flush=True); time.sleep(60)'", "did not end within"),
        ("missing-program secret-7", "'missing-program' of BULKPULL_TOKEN_COMMAND cannot be run: No such file"),
        ("true", "printed no token"),
        ("printf \\\\377secret-7", "printed no token"),
        ("  ", "is empty"),
        ("echo 'secret-7", "cannot be parsed"),
        ("echo secret-7 extra", ""),
    ],
)
async def test_a_token_command_that_fails_does_not_tell_the_token(
    monkeypatch: pytest.MonkeyPatch, command: str, message: str
) -> None:
    monkeypatch.setattr(token, "TOKEN_COMMAND_TIMEOUT_S", 0.5 if "sleep" in command else 30.0)
    if not message:
        assert await read(command) == "secret-7 extra"  # the client refuses it, without telling it
        return
    with pytest.raises(UsageError, match=message) as error:
        await read(command)
    assert "secret-7" not in str(error.value)
