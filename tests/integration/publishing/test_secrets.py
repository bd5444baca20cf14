"""Keys and addresses in rows stop a push."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hub_folders import WRITER, WRITES, make_cache, routes_since
from hub_server import HubServer
from hub_worker import ClientError, Worker

pytestmark = pytest.mark.integration


def test_secrets_stop_a_push(
    hub: HubServer, client: Worker, folders: dict[str, Path], tmp_path: Path
) -> None:
    begin = len(hub.log)
    cache = make_cache(tmp_path / "cache", 3, extra=" Ask someone@somewhere.org.")
    given = {"folders": [folders["task"], cache], "repo": "org/leaky", "license": "mit"}
    with pytest.raises(ClientError, match="--allow") as error:
        client("push", WRITER, **given)
    assert error.value.kind == "SecretError"
    assert "3 email" in error.value.notes
    assert "cache/pairs-00000.parquet row 0: email" in error.value.notes
    assert "someone@somewhere.org" not in error.value.notes
    assert not WRITES & set(routes_since(hub, begin))
    done = client("push", WRITER, **given, allow=["*@somewhere.org"])
    assert done["changed"]
    manifest = json.loads(hub.files("org/leaky")["manifest.json"])
    assert manifest["details"]["allowed"] == {"email": 3}


def test_the_command_line_reports_it(
    client: Worker, folders: dict[str, Path], tmp_path: Path
) -> None:
    cache = make_cache(tmp_path / "cache", 3, extra=" Ask someone@somewhere.org.")
    arguments = ["push", "org/refused", str(folders["task"]), str(cache), "--license", "mit"]
    done = client("main", WRITER, arguments=arguments)
    assert done["code"] == 2
    assert "cache/pairs-00000.parquet row 0: email" in done["out"]
    assert len(done["err"].splitlines()) == 1
    allowed = [*arguments, "--allow", "email"]
    done = client("main", WRITER, arguments=allowed)
    assert (done["code"], done["err"]) == (0, "")
    assert "allowed by --allow: 3 email" in done["out"]


def test_the_login_itself_never_leaves(
    hub: HubServer, client: Worker, folders: dict[str, Path], tmp_path: Path
) -> None:
    begin = len(hub.log)
    cache = make_cache(tmp_path / "cache", 3, extra=f" My key is {WRITER}.")
    given = {"folders": [folders["task"], cache], "repo": "org/worse", "license": "mit"}
    with pytest.raises(ClientError, match="login-token") as error:
        client("push", WRITER, **given, allow=["login-token", "*"])
    assert WRITER not in error.value.message + error.value.notes
    assert not WRITES & set(routes_since(hub, begin))
