"""A headless Chromium, controlled through a pipe with its own protocol.

ours, fd 3 of the browser  ──▶  {"id": 1, "method": ...}\0
ours, fd 4 of the browser  ◀──  {"id": 1, "result": ...}\0  and events
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str | None:
    """Return the path of Chromium, or None if it is not installed."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


class Seen(NamedTuple):
    """Measurements of a page."""

    problems: list[str]
    width: int
    scroll_width: int
    paper: str
    figures: list[tuple[float, float]]
    labels: list[float]
    wide: list[str]


_LOOK = """(() => {
  const size = node => node.getBoundingClientRect();
  const svgs = [...document.querySelectorAll('svg')];
  const inside = [...document.querySelectorAll('body *')]
    .filter(node => !node.closest('.scroll, svg') && size(node).right > innerWidth + 1);
  return {
    width: document.documentElement.clientWidth,
    scroll_width: document.documentElement.scrollWidth,
    paper: getComputedStyle(document.body).backgroundColor,
    figures: svgs.map(svg => [size(svg).width, size(svg).height]),
    labels: svgs.flatMap(svg => [...svg.querySelectorAll('text')].map(t => size(t).height)),
    wide: inside.map(node => node.outerHTML.slice(0, 120)),
  };
})()"""


class Browser:
    """A browser; the end of the `with` block closes it."""

    def __init__(self, program: str, folder: Path) -> None:
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()

        self._process = subprocess.Popen(
            [
                "bash",
                "-c",
                'exec 3<&"$1" 4>&"$2"; shift 2; exec "$@"',
                "browser",
                str(theirs_in),
                str(theirs_out),
                program,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-extensions",
                "--hide-scrollbars",
                f"--user-data-dir={folder}",
                "--remote-debugging-pipe",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs_in, theirs_out),
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._out, self._in = os.fdopen(ours_out, "wb", 0), os.fdopen(ours_in, "rb", 0)
        self._number, self._rest = 0, b""
        self._events: list[dict[str, Any]] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Log", "Runtime", "Network"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._out.close()
        self._in.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def look(self, page: Path, width: int, scheme: str, picture: Path | None = None) -> Seen:
        """Open a page in a window of a width, light or dark, and measure it."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self._call("Emulation.setEmulatedMedia", features=[feature])
        self._events.clear()
        self._call("Page.navigate", url=page.resolve().as_uri())
        self._wait("Page.loadEventFired")
        found = self._call("Runtime.evaluate", expression=_LOOK, returnByValue=True)
        if picture is not None:
            taken = self._call("Page.captureScreenshot", captureBeyondViewport=True)
            picture.write_bytes(base64.b64decode(taken["data"]))
        seen = found["result"]["value"]
        seen["figures"] = [(wide, high) for wide, high in seen["figures"]]
        return Seen(self._problems(page), **seen)

    def _problems(self, page: Path) -> list[str]:
        """Return messages, exceptions, and requests other than the page."""
        problems = []
        for event in self._events:
            params = event.get("params", {})
            match event["method"]:
                case "Log.entryAdded":
                    problems.append(params["entry"]["text"])
                case "Runtime.exceptionThrown" | "Runtime.consoleAPICalled":
                    problems.append(json.dumps(params))
                case "Network.requestWillBeSent":
                    url = params["request"]["url"]
                    if url != page.resolve().as_uri() and not url.startswith("data:"):
                        problems.append(f"asked for {url}")
        return problems

    def _call(self, method: str, **params: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if hasattr(self, "_session"):
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self._events.append(answer)

    def _wait(self, method: str) -> None:
        while not any(event["method"] == method for event in self._events):
            self._events.append(self._read())

    def _read(self) -> Any:
        while b"\0" not in self._rest:
            part = self._in.read(1 << 16)
            assert part, "the browser is gone"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)
