"""Tests of the statistics: `python3 -m unittest discover -s benches/compare`."""

import unittest
from types import SimpleNamespace

from figures import Bar, Results, interval

CELL = SimpleNamespace(name="h1-32", steady="rps", once=False)


def results(rounds, **series):
    """`pair=[figure of round 1, ..]`; *direct* has requests per second, all others CPU."""
    made = Results(rounds)
    for pair, values in series.items():
        key = "rps" if pair == "direct" else "cpu_us"
        made.lines += [{"round": number, "cell": CELL.name, "pair": pair, key: value}
                       for number, value in enumerate(values, 1)]
    return made


class Figures(unittest.TestCase):
    def test_an_interval_contains_the_median_and_repeats(self):
        found = interval([5, 1, 4, 2, 3, 9, 2, 3, 4])
        self.assertEqual(found.median, 3)
        self.assertTrue(2 <= found.low <= 3 <= found.high <= 5)
        self.assertEqual(found, interval([9, 5, 4, 4, 3, 3, 2, 2, 1]))
        self.assertIsNone(interval([]))

    def test_a_ratio_is_taken_round_by_round(self):
        made = results(3, envoy=[100, 200, 400], outrigger=[30, 60, 200])
        self.assertAlmostEqual(made.ratio(CELL, "outrigger", "cpu_us").median, 0.3)

    def test_a_disturbed_round_is_left_out_once_there_are_enough_others(self):
        made = results(3, direct=[100, 50, 101], envoy=[10, 10, 10], outrigger=[4, 40, 4])
        self.assertEqual(made.unsteady(CELL), {2})
        self.assertFalse(made.enough(CELL))
        self.assertEqual(made.left_out(CELL), set(), "until then nothing is left out")
        made = results(3, direct=[100, 50, 101, 99], envoy=[10, 10, 10, 10], outrigger=[4, 40, 4, 4])
        self.assertTrue(made.enough(CELL))
        self.assertEqual(made.ratio(CELL, "outrigger", "cpu_us").high, 0.4)

    def test_a_failed_cell_does_not_count_as_a_figure(self):
        made = results(2, envoy=[10, 10], outrigger=[4, 4])
        made.lines.append({"round": 3, "cell": CELL.name, "pair": "outrigger", "failed": "no"})
        self.assertEqual(len(made.series(CELL, "outrigger", "cpu_us")), 2)

    def test_a_bar_needs_the_median_and_the_upper_end(self):
        bar = Bar("", CELL.name, "cpu_us", 0.40)
        for ours, holds in (([4, 4, 4], True), ([4.1, 4.1, 4.1], False), ([4, 4, 9], False), ([1, 4, 4.3], True)):
            made = results(3, envoy=[10, 10, 10], outrigger=ours)
            self.assertEqual(bar.verdict(made, [CELL], "outrigger")[1], holds, ours)
        self.assertEqual(bar.verdict(results(1, envoy=[10]), [CELL], "outrigger"), (None, None))

    def test_what_is_added_is_the_distance_to_direct(self):
        made = Results(1)
        for pair, p50 in (("direct", 60), ("envoy", 360), ("outrigger", 210)):
            made.lines.append({"round": 1, "cell": CELL.name, "pair": pair, "p50_us": p50})
        self.assertAlmostEqual(made.ratio(CELL, "outrigger", "p50_us", added=True).median, 0.5)


if __name__ == "__main__":
    unittest.main()
