"""A stand-in for a part with one health check: ``--port P`` serves ``/healthz`` and ``/readyz`` with 200.

Its behaviour in a test of the launcher is chosen by ``ILV_FAKE`` in the environment: ``exit`` fails at
once with a line on stderr, ``mute`` never becomes ready.
"""

import argparse
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--data-dir")
    arguments = parser.parse_args()
    if os.environ.get("ILV_FAKE") == "exit":
        sys.exit("the stand-in was told to fail")
    if os.environ.get("ILV_FAKE") == "mute":
        sys.stdin.close()
        __import__("signal").pause()
    ThreadingHTTPServer((arguments.host, arguments.port), Health).serve_forever()


main()
