import io
import pathlib
import sys
import unittest
from urllib.parse import urlencode

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import linkboard


class PageTest(unittest.TestCase):
    def setUp(self):
        self.board = linkboard.Board(":memory:")
        self.addCleanup(self.board.close)
        self.application = linkboard.Application(self.board)

    def call(self, method, path, form=None, cookie="", query=""):
        body = urlencode(form or {}).encode()
        answer = {}

        def start(status, headers):
            answer.update(status=int(status.split()[0]), headers=dict(headers))

        environ = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_COOKIE": cookie,
            "wsgi.input": io.BytesIO(body),
        }
        text = b"".join(self.application(environ, start)).decode()
        return answer["status"], answer["headers"], text

    def token(self):
        _, headers, _ = self.call("GET", "/")
        return headers["Set-Cookie"].split(";")[0]

    def test_add_vote_and_search(self):
        cookie = self.token()
        form = {"token": cookie.split("=")[1], "url": "https://example.org/a", "title": "An <b>example</b>"}
        self.assertEqual(self.call("POST", "/add", form, cookie)[0], 303)
        self.assertEqual(self.call("POST", "/vote", {**form, "id": "1"}, cookie)[0], 303)
        _, _, text = self.call("GET", "/", query="q=example")
        self.assertIn("An &lt;b&gt;example&lt;/b&gt;", text)
        self.assertIn("▲ 2", text)
        self.assertNotIn("example.org", self.call("GET", "/", query="q=100%25")[2])

    def test_forms_of_other_sites_are_refused(self):
        form = {"token": "0" * 32, "url": "https://example.org", "title": "x"}
        self.assertEqual(self.call("POST", "/add", form)[0], 403)
        self.assertEqual(self.call("POST", "/add", form, self.token())[0], 403)

    def test_only_web_links(self):
        cookie = self.token()
        for url in ("javascript:alert(1)", "ftp://x", "https://", "nonsense", "http://[x"):
            form = {"token": cookie.split("=")[1], "url": url, "title": "x"}
            self.assertEqual(self.call("POST", "/add", form, cookie)[0], 422, url)

    def test_unknown_page(self):
        self.assertEqual(self.call("GET", "/admin")[0], 404)


if __name__ == "__main__":
    unittest.main()
