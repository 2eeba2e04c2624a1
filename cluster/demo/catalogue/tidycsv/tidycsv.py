#!/usr/bin/env python3
"""An agent that cleans CSV files and reports every change. See README.md."""

import argparse
import csv
import datetime
import io
import json
import os
import re
import sys

BYTES_MAX = 256 * 1024 * 1024
DELIMITERS = ",;\t|"
DATE_FORMATS = ("%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%Y/%m/%d")
POINT = re.compile(r"[+-]?(\d+|\d{1,3}(,\d{3})+)(\.\d+)?")
COMMA = re.compile(r"[+-]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?")
LEADING_ZERO = re.compile(r"[+-]?0\d")


class NotATable(Exception):
    """The file has no shape that a table could have."""


def decode(raw):
    """Text and the name of its encoding."""
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            return raw.decode(encoding), ("utf-8" if encoding == "utf-8-sig" else encoding)
        except UnicodeDecodeError:
            continue
    return raw.decode("latin-1"), "latin-1"


def split(text):
    """Rows and their delimiter: one that splits the header, with the fewest ragged rows, then the widest."""
    best = None
    for delimiter in DELIMITERS:
        try:
            rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)]
        except csv.Error:
            continue
        rows = [row for row in rows if any(value.strip() for value in row)]
        if rows:
            ragged = sum(len(row) != len(rows[0]) for row in rows)
            score = (len(rows[0]) > 1, -ragged, len(rows[0]))
            if best is None or score > best[0]:
                best = (score, rows, delimiter)
    if best is None:
        raise NotATable("the file holds no rows")
    if best[0][1]:
        wrong = next(n for n, row in enumerate(best[1], 1) if len(row) != len(best[1][0]))
        raise NotATable(f"row {wrong} (not counting blank ones) has another number of columns than the first")
    return best[1], best[2]


def headers(names):
    """Unique lower-case names."""
    seen, result = {}, []
    for number, name in enumerate(names, 1):
        plain = re.sub(r"[^\w]+", "_", name.strip().lower()).strip("_") or f"column_{number}"
        seen[plain] = seen.get(plain, 0) + 1
        result.append(plain if seen[plain] == 1 else f"{plain}_{seen[plain]}")
    return result


def dates(values):
    """ISO dates if exactly one format reads all values (or several that agree), else None."""
    readings = []
    for form in DATE_FORMATS:
        try:
            readings.append([datetime.datetime.strptime(value, form).date().isoformat() for value in values])
        except ValueError:
            continue
    if not readings:
        return None, False
    agree = all(reading == readings[0] for reading in readings)
    return (readings[0], False) if agree else (None, True)


def numbers(values):
    """Plain decimals if one convention reads all values; codes with leading zeros are no numbers."""
    if any(LEADING_ZERO.match(value) for value in values):
        return None, False
    readings = []
    if all(POINT.fullmatch(value) for value in values):
        readings.append([value.replace(",", "") for value in values])
    if all(COMMA.fullmatch(value) for value in values):
        readings.append([value.replace(".", "").replace(",", ".") for value in values])
    if not readings:
        return None, False
    agree = all(reading == readings[0] for reading in readings)
    return (readings[0], False) if agree else (None, True)


def mend_column(name, column, report):
    """Return the column in one spelling, if there is one that all values agree on."""
    places = [index for index, value in enumerate(column) if value]
    values = [column[index] for index in places]
    if not values:
        return column
    for kind, read in (("date", dates), ("number", numbers)):
        reading, ambiguous = read(values)
        if ambiguous:
            report["left_alone"].append({"column": name, "why": f"{kind}s that can be read in two ways"})
            return column
        if reading is not None:
            changed = sum(old != new for old, new in zip(values, reading))
            report["columns"][name] = {"kind": kind, "changed": changed}
            mended = list(column)
            for index, value in zip(places, reading):
                mended[index] = value
            return mended
    report["columns"][name] = {"kind": "text", "changed": 0}
    return column


def tidy(raw):
    """Clean a file's bytes; returns the clean text and the report."""
    text, encoding = decode(raw)
    rows, delimiter = split(text)
    report = {"encoding": encoding, "delimiter": delimiter, "columns": {}, "left_alone": []}
    names, body = headers(rows[0]), rows[1:]
    stripped = [tuple(" ".join(value.split()) for value in row) for row in body]
    report["spaces_mended"] = sum(
        old != new for before, after in zip(body, stripped) for old, new in zip(before, after)
    )
    unique = list(dict.fromkeys(stripped))
    report["duplicate_rows_removed"] = len(stripped) - len(unique)
    columns = [mend_column(name, list(column), report) for name, column in zip(names, zip(*unique))]
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(zip(*columns))
    report["rows"] = len(unique)
    clean = out.getvalue()
    again = list(csv.reader(io.StringIO(clean, newline="")))
    if again != [names, *map(list, zip(*columns))]:
        raise NotATable("what was written does not read back the same")
    return clean, report


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Clean a CSV file and report every change.")
    parser.add_argument("table")
    parser.add_argument("-o", "--output", help="where the clean table goes (default: standard output)")
    parser.add_argument("--report", help="where the report goes (default: standard error)")
    parser.add_argument("--dry-run", action="store_true", help="report only")
    options = parser.parse_args(arguments)
    try:
        if os.path.getsize(options.table) > BYTES_MAX:
            raise NotATable(f"the file is larger than {BYTES_MAX} bytes")
        with open(options.table, "rb") as file:
            clean, report = tidy(file.read())
        if not options.dry_run:
            if options.output:
                with open(options.output, "w", encoding="utf-8", newline="") as file:
                    file.write(clean)
            else:
                sys.stdout.write(clean)
        text = json.dumps(report, indent=2) + "\n"
        if options.report:
            with open(options.report, "w", encoding="utf-8") as file:
                file.write(text)
        else:
            sys.stderr.write(text)
    except NotATable as error:
        print(f"tidycsv: {options.table}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"tidycsv: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
