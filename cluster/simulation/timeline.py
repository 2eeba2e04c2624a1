"""The timeline of one seed: who did what, when, to which order. Tuples, written out only on demand."""

import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple

_SURROUNDINGS = {"world", "network", "operator", "postgres", "stripe", "finance", "signer"}


class Entry(NamedTuple):
    """One line: virtual time in seconds, the process, what happened, and the order that it concerns."""

    at_s: float
    process: str
    what: str
    subject: str


@dataclass
class Timeline:
    """Entries in the order in which they happened."""

    entries: list[Entry] = field(default_factory=list)

    def add(self, at_s: float, process: str, what: str, subject: str = "") -> None:
        """Append a line."""
        self.entries.append(Entry(at_s, process, what, subject))

    def of(self, subject: str) -> list[str]:
        """Write out what concerns one order: its own lines, and what befell the parties meanwhile."""
        own = [index for index, entry in enumerate(self.entries) if entry.subject == subject]
        if not own:
            return []
        parties = {self.entries[index].process for index in own} | _SURROUNDINGS
        between = self.entries[own[0] : own[-1] + 1]
        return [
            _line(entry)
            for entry in between
            if entry.subject == subject or (entry.subject == "*" and entry.process in parties)
        ]

    def all(self) -> list[str]:
        """Write everything out."""
        return [_line(entry) for entry in self.entries]

    def digest(self) -> str:
        """SHA-256 over every line: equal when two runs were the same, byte by byte."""
        digest = hashlib.sha256()
        for line in self.all():
            digest.update(line.encode() + b"\n")
        return digest.hexdigest()


def _line(entry: Entry) -> str:
    at_s, process, what, subject = entry
    return f"{at_s:10.4f}  {process:<12} {what}" + (f"  [{subject}]" if subject not in ("", "*") else "")
