"""Tests of the comparison: `python3 -m unittest discover -s benches/instructions`."""

import contextlib
import importlib.util
import io
import sys
import unittest
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
specification = importlib.util.spec_from_file_location("instructions", HERE / "__main__.py")
instructions = importlib.util.module_from_spec(specification)
specification.loader.exec_module(instructions)


def compare(now, then):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = instructions.compare(now, {"built with": "something", "instructions": then})
    return code, said.getvalue()


class Baseline(unittest.TestCase):
    def test_less_is_welcome_and_more_has_a_limit(self):
        self.assertEqual(compare({"route: x": 5000}, {"route: x": 10000})[0], 0)
        self.assertEqual(compare({"route: x": 10100}, {"route: x": 10000})[0], 0)
        self.assertEqual(compare({"route: x": 10101}, {"route: x": 10000})[0], 1)
        self.assertEqual(compare({"request: x": 10300}, {"request: x": 10000})[0], 0)
        self.assertEqual(compare({"request: x": 10301}, {"request: x": 10000})[0], 1)

    def test_what_appears_or_disappears_needs_a_new_baseline(self):
        self.assertIn("without a baseline", compare({"new": 1}, {})[1])
        self.assertEqual(compare({"new": 1}, {})[0], 1)
        self.assertEqual(compare({}, {"old": 1})[0], 1)


if __name__ == "__main__":
    unittest.main()
