import contextlib
import gzip
import io
import json
import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import logline

LOG = """\
203.0.113.9 - - [24/Nov/2026:09:00:01 +0000] "GET /?q=1 HTTP/1.1" 200 512
203.0.113.9 - - [24/Nov/2026:09:00:02 +0000] "GET /style.css HTTP/1.1" 304 -
198.51.100.7 - ann [24/Nov/2026:10:30:00 +0000] "GET / HTTP/2" 200 512 "-" "curl/8.1"
198.51.100.7 - ann [25/Nov/2026:10:31:00 +0000] "POST /login HTTP/2" 500 90 "-" "x \\" y"
this is no log line
"""


class SummaryTest(unittest.TestCase):
    def run_main(self, *arguments):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            status = logline.main(list(arguments))
        return status, out.getvalue()

    def test_counts(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "access.log.gz")
            with gzip.open(path, "wt") as log:
                log.write(LOG)
            status, text = self.run_main("--json", str(path))
        data = json.loads(text)
        self.assertEqual(status, 0)
        self.assertEqual((data["requests"], data["visitors"], data["days"]), (4, 2, 2))
        self.assertEqual(data["bytes"], 1114)
        self.assertEqual(data["statuses"], {"2xx": 2, "3xx": 1, "5xx": 1})
        self.assertEqual(data["top_paths"]["/"], 2)
        self.assertEqual(data["failing_paths"], {"500 /login": 1})
        self.assertEqual(data["lines_not_read"], 1)

    def test_memory_is_bounded(self):
        counter = logline.Counter()
        for number in range(logline.DISTINCT_MAX + 10):
            counter.add(number)
        self.assertEqual(len(counter), logline.DISTINCT_MAX + 1)
        self.assertEqual(counter[logline.OTHER], 10)

    def test_a_log_cannot_drive_the_terminal(self):
        summary = logline.Summary()
        summary.add('1.2.3.4 - - [24/Nov/2026:09:00:01 +0000] "GET /\x1b[2J HTTP/1.1" 200 1')
        self.assertNotIn("\x1b", logline.render(summary.as_dict(10)))

    def test_a_missing_file_is_one_line(self):
        status, text = self.run_main("/nonexistent/access.log")
        self.assertEqual((status, text), (2, ""))


if __name__ == "__main__":
    unittest.main()
