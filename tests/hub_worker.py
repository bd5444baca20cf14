"""A client of the Hub in its own process, because its libraries read the environment at import.

    with Worker(hub, home) as worker:
        worker("push", "writer-token", folders=[...], repo="org/name", ratios=[2], license="mit")

Run as a script it is that process: a request a line on its input, an answer a line on its output.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from hub_server import HubServer


class ClientError(Exception):
    """An error of a request in the other process."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(f"{answer['error']}: {answer['message']}")
        self.kind: str = answer["error"]
        self.message: str = answer["message"]
        self.notes: str = answer["notes"]


class Worker:
    """The other process."""

    def __init__(self, hub: HubServer, home: Path) -> None:
        self.home = home
        self.environment = {
            **os.environ,
            **hub.environment(None),
            "HF_HOME": str(home / "hf"),
            "XDG_CACHE_HOME": str(home / "cache"),
            "DELIA_CACHE": "",
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
            "COLUMNS": "200",
        }
        self.errors = (home / "stderr.txt").open("w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=self.environment,
            cwd=home,
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()
        self.errors.close()

    def __call__(self, what: str, token: str | None, **given: Any) -> Any:
        """Run a function in the other process with a login, and return its result.

        Raises:
            ClientError: Something was raised there.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = {"do": what, "token": token or "", "given": given}
        self.process.stdin.write(json.dumps(request, default=str) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the client died: {Path(self.errors.name).read_text()[-3000:]}"
        answer = json.loads(line)
        assert "crash" not in answer, answer["crash"]
        if "error" in answer:
            raise ClientError(answer)
        return answer["result"]


def _push(folders: list[str], repo: str, **options: Any) -> Any:
    from delia_data.hub import Retry, push

    done = push(folders, repo, retry=Retry(tries=5, base_s=0.02), **options)
    names = ("why", "changed", "card", "commit", "tag", "proposal")
    listed = {name: getattr(done, name) for name in names}
    files = {file.path: file.state for file in done.files}
    return listed | {"version": str(done.version), "files": files}


def _load_model(lines: str, ids: list[list[int]]) -> Any:
    """Return logits of the model that a card's code loads, and its tokenizer's ids of the token."""
    names: dict[str, Any] = {}
    exec(lines, names)
    logits = names["model"].eval()(names["torch"].tensor(ids)).logits.float()
    return {"logits": logits.tolist(), "token": names["tokenizer"].convert_tokens_to_ids("<sep>")}


def _pull(name: str, folder: str) -> Any:
    from delia_data.hub import Retry, pull

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = pull(name, folder, retry=Retry(tries=3, base_s=0.02))
    listed = [str(warning.message) for warning in caught]
    version = found.manifest.settings["version"]
    return {"commit": found.commit, "version": version, "repo": found.repo, "warnings": listed}


def _load(path: str, name: str | None = None, home: str | None = None, **given: Any) -> Any:
    """Return the rows of every split, loaded into a separate datasets cache if one is given."""
    from datasets import load_dataset

    import delia_data  # noqa: F401  # registers delia_mix

    if home is not None:
        given["cache_dir"] = home
    splits = load_dataset(path, name, **given)
    return {split: list(rows) for split, rows in splits.items()}


def _main(arguments: list[str]) -> Any:
    """Run a command line in this process."""
    from delia_data.cli import _output, main

    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["delia", *arguments]
    _output.console.file = out
    try:
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
            main()
        code: Any = 0
    except SystemExit as stopped:
        code = stopped.code or 0
    finally:
        _output.console.file = None  # type: ignore[assignment]  # its own again
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def _diff(before: str, after: str) -> Any:
    from dataclasses import asdict

    from delia_data.hub import diff

    return asdict(diff(before, after))


def _serve() -> None:
    from delia_data.errors import DeliaError

    answers, sys.stdout = sys.stdout, sys.stderr
    known = {"push": _push, "pull": _pull, "load": _load, "main": _main, "diff": _diff}
    known["load_model"] = _load_model
    for line in sys.stdin:
        request = json.loads(line)
        os.environ["HF_TOKEN"] = request["token"]
        try:
            answer: dict[str, Any] = {"result": known[request["do"]](**request["given"])}
        except DeliaError as error:
            notes = "\n".join(getattr(error, "__notes__", []))
            answer = {"error": type(error).__name__, "message": str(error), "notes": notes}
        except Exception:
            answer = {"crash": traceback.format_exc()}
        print(json.dumps(answer, default=str), file=answers, flush=True)


if __name__ == "__main__":
    _serve()
