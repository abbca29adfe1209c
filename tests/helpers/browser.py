"""A real browser without a window, driven over its debugging protocol."""

import base64
import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import time

import httpx
import pytest
from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
PATIENCE_S = 90  # on a busy machine


class Browser:
    """One page; what it asks servers for, and what goes wrong in its scripts, is kept."""

    def __init__(self, socket):
        self._socket, self._numbers = socket, itertools.count(1)
        self.errors, self.requests = [], []
        for domain in ("Page", "Runtime", "Network", "DOM"):
            self.send(f"{domain}.enable")

    def send(self, method, **params):
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=PATIENCE_S))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message):
        params = message.get("params", {})
        if message["method"] == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"])
        elif message["method"] == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def open(self, url):
        self.send("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script):
        """The value of an expression in the page."""
        done = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def until(self, script):
        """Wait for an expression to be true; its value."""
        deadline = time.monotonic() + PATIENCE_S
        while not (value := self.run(script)):
            assert time.monotonic() < deadline, f"never: {script}; the page says: {self.text()}"
            time.sleep(0.05)
        return value

    def text(self):
        """What can be read on the page."""
        return self.run("document.body.innerText")

    def choose_file(self, selector, path):
        """As a person does it in the dialog of a file field."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def screenshot(self, path):
        data = self.send("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))


@contextlib.contextmanager
def open_browser(folder, size=(1280, 860)):
    """Start one that keeps its things in ``folder``; the test is skipped where there is none."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser here: none of {', '.join(NAMES)}")
    command = [program, *FLAGS, "--remote-debugging-port=0", f"--window-size={size[0]},{size[1]}"]
    command += [f"--user-data-dir={folder / 'profile'}", "about:blank"]
    log = folder / "browser.log"
    environment = os.environ | {"HOME": str(folder)}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not (
            found := re.search(r"DevTools listening on ws://([\d.:]+)/", log.read_text(errors="replace"))
        ):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text(errors="replace")[
                -2000:
            ]
            time.sleep(0.05)
        pages = httpx.get(f"http://{found[1]}/json/list", timeout=PATIENCE_S).json()
        address = next(page for page in pages if page["type"] == "page")["webSocketDebuggerUrl"]
        with connect(address, max_size=None, open_timeout=PATIENCE_S) as socket:
            yield Browser(socket)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
