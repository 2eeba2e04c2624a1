"""CSV that spreadsheets open without running it.

A text that begins like a formula gets an apostrophe before it, which spreadsheets take for "this is text".
"""

# Spreadsheets run texts that begin like this as formulas (OWASP, "CSV injection").
_FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")


def harmless(text: str) -> str:
    """Return ``text`` so that no spreadsheet runs it."""
    return f"'{text}" if text.startswith(_FORMULA_SIGNS) else text
