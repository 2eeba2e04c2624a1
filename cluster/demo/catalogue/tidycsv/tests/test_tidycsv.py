import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import tidycsv

MESSY = (
    "Name;Joined ;Paid;Postcode;Seen\r\n"
    "Zoë ;24.11.2026;1.234,50;01067;03/04/2026\r\n"
    "\r\n"
    "Bo;01.02.2026;7,00;10115;05/06/2026\r\n"
    "Bo;01.02.2026;7,00;10115;05/06/2026\r\n"
)


class TidyTest(unittest.TestCase):
    def test_mends_what_is_certain_and_nothing_else(self):
        clean, report = tidycsv.tidy(MESSY.encode("cp1252"))
        self.assertEqual(
            clean.splitlines(),
            [
                "name,joined,paid,postcode,seen",
                "Zoë,2026-11-24,1234.50,01067,03/04/2026",
                "Bo,2026-02-01,7.00,10115,05/06/2026",
            ],
        )
        self.assertEqual(report["encoding"], "cp1252")
        self.assertEqual(report["duplicate_rows_removed"], 1)
        self.assertEqual([one["column"] for one in report["left_alone"]], ["seen"])

    def test_is_idempotent(self):
        clean, _ = tidycsv.tidy(MESSY.encode())
        self.assertEqual(tidycsv.tidy(clean.encode())[0], clean)

    def test_header_names_become_unique(self):
        self.assertEqual(tidycsv.headers(["A b", "a-b", " "]), ["a_b", "a_b_2", "column_3"])

    def test_thousands_that_could_be_decimals_are_left_alone(self):
        clean, report = tidycsv.tidy(b"price\n1.234\n")
        self.assertEqual(clean, "price\n1.234\n")
        self.assertEqual(report["left_alone"][0]["column"], "price")

    def test_ragged_rows_are_refused_in_one_line(self):
        with tempfile.TemporaryDirectory() as folder:
            table = pathlib.Path(folder, "t.csv")
            table.write_text("a,b\n1,2\n3\n", encoding="utf-8")
            done = subprocess.run(
                [sys.executable, str(ROOT / "tidycsv.py"), str(table)], capture_output=True, text=True, check=False
            )
        self.assertEqual(done.returncode, 1)
        self.assertEqual(len(done.stderr.strip().splitlines()), 1)


if __name__ == "__main__":
    unittest.main()
