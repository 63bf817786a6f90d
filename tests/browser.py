"""A headless Chromium that is driven over its DevTools protocol: pages opened, looked at, typed at, photographed."""

from __future__ import annotations

import base64
import itertools
import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tools import tool
from waiting import eventually_sync
from websockets.sync.client import ClientConnection, connect

CHROMIUM_FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--mute-audio",
)
_ANSWER_SECS: Final = 30.0


@contextmanager
def chromium(profile: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a headless Chromium with a profile of its own; end it at the end."""
    command = [tool("chromium"), *CHROMIUM_FLAGS, f"--user-data-dir={profile}", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


class Tab:
    """One page. What it asks the network for and what it complains of are kept."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self.requests: list[str] = []
        """Addresses, in order."""
        self.complaints: list[str] = []
        """Errors and warnings of the console, exceptions, and what the browser itself says against the page."""
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; return its result."""
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=_ANSWER_SECS))
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                result: dict[str, Any] = message["result"]
                return result
            self._take(message)

    def _take(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        match event.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])
            case "Runtime.exceptionThrown":
                details = parameters["exceptionDetails"]
                self.complaints.append(details.get("exception", {}).get("description", details["text"]))
            case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "warning", "assert"):
                self.complaints.append(str([given.get("value") for given in parameters["args"]]))
            case "Log.entryAdded" if parameters["entry"]["level"] in ("error", "warning"):
                self.complaints.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")

    def open(self, url: str) -> None:
        """Go to an address."""
        self.call("Page.navigate", url=url)

    def run(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        """Return the text of the first element that a selector finds; empty if no element matches."""
        return str(self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def texts(self, selector: str) -> list[str]:
        """Return the texts of all elements that a selector finds."""
        found = self.run(
            f"[...document.querySelectorAll({json.dumps(selector)})].map((each) => each.innerText.trim())"
        )
        return list(found)

    def wait(self, fact: Callable[[], Any], what: str) -> Any:
        """Wait for a fact."""
        return eventually_sync(fact, what, every_secs=0.05)

    def show_as(self, *, width: int = 1280, height: int = 900, scale: float = 1, **features: str) -> None:
        """Take the size of a screen, and what its user prefers, as `prefers_color_scheme="dark"`."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )
        wishes = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=wishes)

    def press(self, key: str) -> None:
        """Press a key that types nothing, such as `Tab`."""
        codes = {"Tab": 9, "Enter": 13}
        for kind in ("rawKeyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key]
            )

    def photograph(self, path: Path, height: int | None = None) -> None:
        """Save what is visible as PNG; with a height, that much of the page."""
        clip: dict[str, Any] = {}
        if height is not None:
            width = self.run("innerWidth")
            clip = {
                "clip": {"x": 0, "y": 0, "width": width, "height": height, "scale": 1},
                "captureBeyondViewport": True,
            }
        answer = self.call("Page.captureScreenshot", format="png", **clip)
        path.write_bytes(base64.b64decode(answer["data"]))


@contextmanager
def browsing(profile: Path, *arguments: str) -> Iterator[Tab]:
    """Yield the tab of a browser."""
    port_file = profile / "DevToolsActivePort"
    with chromium(profile, "--remote-debugging-port=0", *arguments, "about:blank") as process:

        def address() -> Sequence[str]:
            assert process.poll() is None, f"chromium ended with {process.returncode}"
            return port_file.read_text().splitlines() if port_file.exists() else []

        port, path = eventually_sync(lambda: address()[:2], "the browser's own port")
        with connect(f"ws://127.0.0.1:{port}{path}", max_size=None, compression=None) as browser:
            browser.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
            targets = json.loads(browser.recv(timeout=_ANSWER_SECS))["result"]["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        url = f"ws://127.0.0.1:{port}/devtools/page/{page}"
        with connect(url, max_size=None, compression=None) as connection:
            tab = Tab(connection)
            yield tab
            tab.call("Browser.close")
