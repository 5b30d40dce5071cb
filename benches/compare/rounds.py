"""The order of measuring: A B C .. A B C .., so that whatever disturbs the machine disturbs all."""

import json
import os
import time

from bed import Failed


def run(measure, pairs, cells, results, path, say):
    """As many rounds as were asked for, and of each cell further ones, at most as many again, in the place of those in
    which the machine was not steady. Every figure is written to `path` as soon as it is known."""
    with open(path, "w", encoding="utf-8") as file:
        for number in range(1, 2 * results.rounds + 1):
            for cell in cells:
                if not results.enough(cell):
                    _round(measure, pairs, cell, number, results, file, say)


def _round(measure, pairs, cell, number, results, file, say):
    for pair in filter(cell.suits, pairs):
        line = {"round": number, "cell": cell.name, "pair": pair.name, "load": os.getloadavg()[0],
                "at": time.strftime("%H:%M:%S")}
        try:
            figures = measure(cell, pair)
        except (Failed, OSError) as error:
            figures = {"failed": str(error)}
        line |= {key: round(value, 4) if isinstance(value, float) else value for key, value in figures.items()}
        results.lines.append(line)
        file.write(json.dumps(line) + "\n")
        file.flush()
        say(line)
