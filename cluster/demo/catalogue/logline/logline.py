#!/usr/bin/env python3
"""Turn web-server access logs into a one-page summary. See README.md."""

import argparse
import collections
import gzip
import io
import json
import re
import sys

DISTINCT_MAX = 100_000  # memory stays below some 50 MB however hostile the log is
OTHER = "(other)"
LINE = re.compile(
    r'(?P<client>\S+) \S+ (?P<user>.*?) \[(?P<day>[^:\]]+):(?P<hour>\d\d):\d\d:\d\d [^\]]+\] '
    r'"(?P<request>(?:[^"\\]|\\.)*)" (?P<status>\d{3}) (?P<bytes>\d+|-)'
)


class Counter(collections.Counter):
    """Counts at most DISTINCT_MAX different keys; the rest are added up as one."""

    def add(self, key):
        if key not in self and len(self) >= DISTINCT_MAX:
            key = OTHER
        self[key] += 1


class Summary:
    """What one pass over the lines keeps."""

    def __init__(self):
        self.requests = 0
        self.bytes = 0
        self.unread = 0
        self.first_unread = None
        self.clients = Counter()
        self.paths = Counter()
        self.failing = Counter()
        self.statuses = Counter()
        self.hours = Counter()
        self.days = Counter()

    def add(self, line):
        """Take one line of a log."""
        match = LINE.match(line)
        if not match:
            if line.strip():
                self.unread += 1
                if self.first_unread is None:
                    self.first_unread = line.strip()[:200]
            return
        parts = match["request"].split(" ")
        path = (parts[1] if len(parts) > 1 else match["request"] or "-").split("?", 1)[0]
        status = int(match["status"])
        self.requests += 1
        self.bytes += 0 if match["bytes"] == "-" else int(match["bytes"])
        self.clients.add(match["client"])
        self.paths.add(path)
        self.statuses.add(f"{status // 100}xx")
        self.hours.add(match["hour"])
        self.days.add(match["day"])
        if status >= 400:
            self.failing.add(f"{status} {path}")

    def as_dict(self, top):
        """The summary as plain data."""
        return {
            "requests": self.requests,
            "visitors": len(self.clients),
            "bytes": self.bytes,
            "days": len(self.days),
            "statuses": dict(sorted(self.statuses.items())),
            "busiest_hours": dict(self.hours.most_common(min(top, 24))),
            "top_paths": dict(self.paths.most_common(top)),
            "failing_paths": dict(self.failing.most_common(top)),
            "lines_not_read": self.unread,
            "first_line_not_read": self.first_unread,
        }


def open_log(name):
    """Open a log as text; '-' is standard input, '.gz' is unpacked."""
    if name == "-":
        return io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8", errors="replace")
    opener = gzip.open if name.endswith(".gz") else open
    return opener(name, "rt", encoding="utf-8", errors="replace")


def printable(text):
    """A log is written by strangers: never let it drive the terminal."""
    return "".join(one if one.isprintable() else "?" for one in text)


def size(count):
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def render(data):
    """The summary as text."""
    lines = [
        f"{data['requests']:,} requests by {data['visitors']:,} visitors on {data['days']} day(s), "
        f"{size(data['bytes'])} sent",
        "",
        "Status    " + "  ".join(f"{name} {count:,}" for name, count in data["statuses"].items()),
    ]
    for title, key in (
        ("Busiest hours", "busiest_hours"),
        ("Most wanted", "top_paths"),
        ("Failing", "failing_paths"),
    ):
        if data[key]:
            lines += ["", title]
            most = max(data[key].values())
            for name, count in data[key].items():
                bar = "#" * max(1, round(20 * count / most))
                lines.append(f"  {count:>9,}  {bar:<20}  {printable(name)}")
    if data["lines_not_read"]:
        lines += ["", f"{data['lines_not_read']:,} lines are in no known format, the first:"]
        lines.append("  " + printable(data["first_line_not_read"]))
    return "\n".join(lines)


def main(arguments=None):
    """Run; returns the exit status."""
    parser = argparse.ArgumentParser(description="Summarise web-server access logs.")
    parser.add_argument("logs", nargs="+", help="log files, .gz too; - is standard input")
    parser.add_argument("--top", type=int, default=10, help="lines per list (default 10)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if options.top < 1:
        parser.error("--top must be at least 1")
    summary = Summary()
    for name in options.logs:
        try:
            with open_log(name) as log:
                for line in log:
                    summary.add(line)
        except (OSError, EOFError) as error:
            print(f"logline: {name}: {error}", file=sys.stderr)
            return 2
    data = summary.as_dict(options.top)
    print(json.dumps(data, indent=2) if options.json else render(data))
    return 0 if summary.requests else 1


if __name__ == "__main__":
    sys.exit(main())
