"""Servers for the tests of tracking, on a free port of this machine."""

import contextlib
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class MlflowServer:
    """A real MLflow server, its store and files in a folder; it can be killed and started again."""

    def __init__(self, folder):
        self.folder, self.port, self._process = folder, free_port(), None
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self):
        store = [
            "--backend-store-uri",
            f"sqlite:///{self.folder}/store.db",
            "--artifacts-destination",
            str(self.folder),
        ]
        address = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *store, *address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return self
            except OSError:
                assert self._process.poll() is None, "the server ended by itself"
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.1)

    def kill(self):
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def answering(status=500, delay_s=0.0):
    """The address of a server that answers everything late and with that status."""
    released = threading.Event()

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            released.wait(delay_s)
            with contextlib.suppress(OSError):  # who asked may be gone
                self.send_response(status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

        do_POST = do_GET  # noqa: N815 - the name that the base class looks for

        def log_message(self, *_):
            """Keep the terminal clean."""

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            """A client that went away in mid-request is no error here."""

    server = Server(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        released.set()
        server.shutdown()
        thread.join()
        server.server_close()
