"""Statistics: ratios to bare Envoy round by round, their median with a bootstrap interval, and the bars."""

import random
import statistics
from dataclasses import dataclass

# The pair that is held to the bars.
OURS = "outrigger"
# Every ratio is to this pair, in the same round.
BASE = "envoy"
# The rounds in which this pair's figure is further off its median were disturbed, and are measured again.
STEADY, UNSTEADY = "direct", 0.15
RESAMPLES = 10_000
# A bar holds if the median is at or below it, and the upper end of its interval at or below this multiple of it.
SLACK = 1.1


@dataclass
class Interval:
    """A median and where it lies with 95 % confidence."""

    median: float
    low: float
    high: float


def interval(values):
    """By percentile bootstrap, the same for the same values."""
    values = sorted(values)
    if not values:
        return None
    dice = random.Random(1)
    medians = sorted(statistics.median(dice.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return Interval(statistics.median(values), medians[int(RESAMPLES * 0.025)], medians[int(RESAMPLES * 0.975)])


class Results:
    """Everything that was measured. `rounds`: how many steady rounds of a cell were asked for."""

    def __init__(self, rounds):
        self.rounds, self.lines = rounds, []

    def measured(self, cell):
        return {line["round"] for line in self.lines if line["cell"] == cell.name}

    def unsteady(self, cell):
        """The rounds of a cell in which *direct* was off its median."""
        direct = {line["round"]: line[cell.steady] for line in self.lines
                  if line["cell"] == cell.name and line["pair"] == STEADY and cell.steady in line}
        if not direct:
            return set()
        median = statistics.median(direct.values())
        return {number for number, value in direct.items() if abs(value / median - 1) > UNSTEADY}

    def enough(self, cell):
        """Whether a cell has as many steady rounds as were asked for."""
        return len(self.measured(cell) - self.unsteady(cell)) >= (1 if cell.once else self.rounds)

    def left_out(self, cell):
        """The unsteady rounds; none if the machine never was steady for long enough, for then all are doubtful."""
        return self.unsteady(cell) if self.enough(cell) else set()

    def series(self, cell, pair, key):
        """A figure of a pair by round."""
        out = self.left_out(cell)
        return {line["round"]: line[key] for line in self.lines
                if line["cell"] == cell.name and line["pair"] == pair and key in line and line["round"] not in out}

    def median(self, cell, pair, key):
        values = self.series(cell, pair, key).values()
        return statistics.median(values) if values else None

    def ratio(self, cell, pair, key, added=False):
        """The figure as a ratio to bare Envoy's of the same round; `added`: what both add to *direct*'s."""
        ours, base, less = (self.series(cell, each, key) for each in (pair, BASE, STEADY))
        less = less if added else dict.fromkeys(base, 0)
        return interval([(ours[number] - less[number]) / (base[number] - less[number])
                         for number in sorted(ours.keys() & base.keys() & less.keys())])


@dataclass(frozen=True)
class Bar:
    """A promise, of the ratio to bare Envoy. `added`: of what both add to *direct*. `alone`: of the figure itself."""

    promise: str
    cell: str
    key: str
    limit: float
    added: bool = False
    alone: bool = False

    def verdict(self, results, cells, pair):
        """What was measured, and whether the bar holds; `None`, `None`: it was not measured."""
        cell = next((cell for cell in cells if cell.name == self.cell), None)
        if cell is None:
            return None, None
        if self.alone:
            found = interval(results.series(cell, pair, self.key).values())
        else:
            found = results.ratio(cell, pair, self.key, self.added)
        if found is None:
            return None, None
        return found, found.median <= self.limit and found.high <= SLACK * self.limit


BARS = [
    Bar("CPU per request, HTTP/1.1, 32 connections", "h1-32", "cpu_us", 0.40),
    Bar("CPU per request, HTTP/1.1, 256 connections", "h1-256", "cpu_us", 0.40),
    Bar("CPU per request, HTTP/2", "h2", "cpu_us", 0.45),
    Bar("CPU per GB, bodies of 10 MiB", "large", "cpu_s_per_gb", 1.0),
    Bar("p50 added to *direct*, 1 000 requests/s", "rate-1000", "p50_us", 0.70, added=True),
    Bar("resident memory of an idle proxy, MB", "idle", "rss_mb", 12, alone=True),
]
