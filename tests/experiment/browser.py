"""A page in headless Chromium, driven through the DevTools protocol: enough to look at a report and to use it."""

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import time
import urllib.request

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")


class Page:
    """One tab; `problems` and `requests` collect what the page complained of and asked for."""

    def __init__(self, socket):
        self.socket, self.numbers = socket, itertools.count(1)
        self.problems, self.requests, self.loaded = [], [], False
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message):
        kind, parameters = message["method"], message["params"]
        level = parameters.get("entry", {}).get("level") or parameters.get("type")
        if kind == "Runtime.exceptionThrown" or level in ("error", "warning", "assert"):
            self.problems.append(parameters)
        elif kind == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif kind == "Page.loadEventFired":
            self.loaded = True

    def open(self, path, width=1280, height=900, theme="light"):
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        self.loaded = False
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not self.loaded:
            self._note(json.loads(self.socket.recv()))

    def run(self, script):
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            code = {"ArrowRight": 39, "End": 35, "Home": 36}[key]
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def picture(self, path):
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def browser(profile):
    """A page of a fresh browser that keeps its files in `profile`."""
    import websocket

    command = [CHROMIUM, *_FLAGS, "--remote-debugging-port=0", "--remote-allow-origins=*", f"--user-data-dir={profile}"]
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    with subprocess.Popen(
        [*command, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        try:
            port = _port(profile / "DevToolsActivePort")
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"http://127.0.0.1:{port}/json/list", timeout=30) as answer:
                tab = next(tab for tab in json.load(answer) if tab["type"] == "page")
            address = tab["webSocketDebuggerUrl"]
            with contextlib.closing(websocket.create_connection(address, timeout=60, http_no_proxy=["*"])) as socket:
                yield Page(socket)
        finally:
            process.terminate()


def _port(file, patience_s=60):
    until = time.monotonic() + patience_s
    while not (file.is_file() and file.read_text().strip()):
        assert time.monotonic() < until, "Chromium did not start"
        time.sleep(0.1)
    return int(file.read_text().split()[0])
