#!/usr/bin/env python3
"""A page of shared links: one WSGI application over SQLite. See README.md."""

import argparse
import hmac
import html
import os
import secrets
import sqlite3
import sys
import threading
from http.cookies import SimpleCookie
from socketserver import ThreadingMixIn
from urllib.parse import parse_qs, urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

BODY_BYTES_MAX = 16_384
LINKS_MAX = 10_000
TITLE_CHARS_MAX, URL_CHARS_MAX = 200, 2_000
PAGE_LINKS = 50
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b}
form.inline{display:inline}input{font:inherit;padding:.3rem}button{font:inherit;padding:.3rem .8rem}
li{margin:.4rem 0}.note{color:#a40000}.host{color:#595959;font-size:.9em}label{display:block;margin:.4rem 0}
"""
SCHEMA = """
CREATE TABLE IF NOT EXISTS links (
    id INTEGER PRIMARY KEY, url TEXT NOT NULL UNIQUE, title TEXT NOT NULL,
    votes INTEGER NOT NULL DEFAULT 1, added_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)
"""


class Board:
    """The links; one connection behind one lock, which is plenty for a team."""

    def __init__(self, path):
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, check_same_thread=False)
        with self._database:
            self._database.execute(SCHEMA)

    def close(self):
        self._database.close()

    def add(self, url, title):
        """Keep a link; adding one again is a vote. Returns a complaint, or None."""
        url, title = url.strip(), " ".join(title.split())
        try:
            parts = urlsplit(url)
        except ValueError:
            return "That is not a link."
        if parts.scheme not in ("http", "https") or not parts.hostname or len(url) > URL_CHARS_MAX:
            return "A link starts with http:// or https:// and names a host."
        if not 1 <= len(title) <= TITLE_CHARS_MAX:
            return f"A title has 1 to {TITLE_CHARS_MAX} characters."
        with self._lock, self._database:
            self._database.execute(
                "INSERT INTO links (url, title) VALUES (?, ?) "
                "ON CONFLICT (url) DO UPDATE SET votes = votes + 1",
                (url, title),
            )
            self._database.execute(
                "DELETE FROM links WHERE id <= (SELECT max(id) FROM links) - ?", (LINKS_MAX,)
            )
        return None

    def vote(self, link_id):
        with self._lock, self._database:
            self._database.execute("UPDATE links SET votes = votes + 1 WHERE id = ?", (link_id,))

    def find(self, words):
        """The best links that hold the words."""
        pattern = words.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        with self._lock:
            return self._database.execute(
                "SELECT id, url, title, votes FROM links WHERE title || ' ' || url LIKE ? ESCAPE '\\' "
                "ORDER BY votes DESC, id DESC LIMIT ?",
                (f"%{pattern}%", PAGE_LINKS),
            ).fetchall()


def page(links, words, token, note=""):
    """The one page as HTML."""
    items = "".join(
        f'<li><form class="inline" method="post" action="/vote"><input type="hidden" name="token" '
        f'value="{token}"><input type="hidden" name="id" value="{link_id}">'
        f'<button aria-label="Vote for {html.escape(title)}">▲ {votes}</button></form> '
        f'<a href="{html.escape(url)}" rel="noopener noreferrer">{html.escape(title)}</a> '
        f'<span class="host">{html.escape(urlsplit(url).hostname or "")}</span></li>'
        for link_id, url, title, votes in links
    )
    shown = f"<ol>{items}</ol>" if items else "<p>Nothing here yet.</p>"
    complaint = f'<p class="note" role="alert">{html.escape(note)}</p>' if note else ""
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>linkboard</title>
<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style></head><body>
<h1>linkboard</h1>{complaint}
<form method="post" action="/add"><input type="hidden" name="token" value="{token}">
<label>Link <input name="url" type="url" size="40" required maxlength="{URL_CHARS_MAX}"></label>
<label>Title <input name="title" size="40" required maxlength="{TITLE_CHARS_MAX}"></label>
<button>Add</button></form>
<form method="get" action="/"><label>Search <input name="q" value="{html.escape(words)}"></label>
<button>Search</button></form>
{shown}</body></html>"""


class Application:
    """WSGI: GET / shows and searches, POST /add and /vote change and redirect."""

    def __init__(self, board):
        self._board = board

    def __call__(self, environ, start_response):
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO") or "/"
        cookies = SimpleCookie(environ.get("HTTP_COOKIE", ""))
        token = cookies["token"].value if "token" in cookies else ""
        fresh = not token.isalnum() or len(token) != 32
        token = secrets.token_hex(16) if fresh else token
        headers = [
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'"),
            ("X-Content-Type-Options", "nosniff"),
        ]
        if fresh:
            headers.append(("Set-Cookie", f"token={token}; HttpOnly; SameSite=Strict; Path=/"))
        status, note, words = "200 OK", "", ""
        if path == "/healthz":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"ok\n"]
        if (method, path) in (("POST", "/add"), ("POST", "/vote")):
            status, note = self._change(environ, path, "" if fresh else token)
            if not note:
                start_response("303 See Other", [*headers, ("Location", "/")])
                return [b""]
        elif path == "/" and method in ("GET", "HEAD"):
            words = parse_qs(environ.get("QUERY_STRING", "")).get("q", [""])[0][:100]
        else:
            status, note = "404 Not Found", "There is no such page."
        body = page(self._board.find(words), words, token, note).encode()
        start_response(status, [*headers, ("Content-Length", str(len(body)))])
        return [b"" if method == "HEAD" else body]

    def _change(self, environ, path, token):
        length = environ.get("CONTENT_LENGTH") or "0"
        if not length.isdigit() or int(length) > BODY_BYTES_MAX:
            return "413 Content Too Large", "That is too long."
        body = environ["wsgi.input"].read(int(length)).decode(errors="replace")
        form = {name: values[0] for name, values in parse_qs(body).items()}
        if not token or not hmac.compare_digest(form.get("token", "").encode(), token.encode()):
            return "403 Forbidden", "The form is out of date. Try again from this page."
        if path == "/add":
            complaint = self._board.add(form.get("url", ""), form.get("title", ""))
            return ("422 Unprocessable Content", complaint) if complaint else ("", "")
        if not form.get("id", "").isdigit() or len(form["id"]) > 15:
            return "422 Unprocessable Content", "There is no such link."
        self._board.vote(int(form["id"]))
        return "", ""


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class QuietHandler(WSGIRequestHandler):
    timeout = 30  # a silent client does not keep its thread

    def log_message(self, *_):
        pass


def main(arguments=None):
    parser = argparse.ArgumentParser(description="A page of shared links.")
    parser.add_argument("--host", default=os.environ.get("HOST", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "8080")))
    parser.add_argument("--data", default="linkboard.sqlite3", help="SQLite file (:memory: keeps nothing)")
    options = parser.parse_args(arguments)
    try:
        board = Board(options.data)
        server = make_server(options.host, options.port, Application(board), Server, QuietHandler)
    except (OSError, sqlite3.Error) as error:
        print(f"linkboard: cannot start: {error}", file=sys.stderr)
        return 2
    print(f"linkboard at http://{options.host}:{server.server_port}/", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
