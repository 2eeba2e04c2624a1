"""A web server for the tests' pages: files by path on a loopback port, nothing else, nothing cached."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HERE = Path(__file__).parent
SCRIPTS = (HERE.parents[1] / "docs/vectors/open-delivery.mjs", HERE / "vector_report.mjs", HERE / "page.mjs")
SCRIPT, PAGE = "text/javascript", b"<!doctype html><title>A page</title>"


class Site:
    def __init__(self) -> None:
        self.files: dict[str, tuple[str, bytes]] = {"/": ("text/html", PAGE)}
        for path in SCRIPTS:
            self.files[f"/{path.name}"] = (SCRIPT, path.read_bytes())
        files = self.files

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                kind, data = files.get(self.path, ("text/plain", b""))
                self.send_response(200 if self.path in files else 404)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Be silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
