"""Where a pair's processor time goes: `perf record` on both proxies while a cell runs, and what `perf report` makes of
it, by function and by library."""

import signal
import subprocess

from bed import LOAD_CPU, Failed

# Samples per second; a prime, so that nothing that is periodic hides.
FREQUENCY = 1999


def record(bed, pair, cell, seconds, results):
    """Profiles one cell; writes `<cell>-<pair>-<side>.txt` for each side."""
    cell.generate(bed, pair.target, 1)
    recorders = []
    for side, process in (("outbound", pair.outbound), ("inbound", pair.inbound)):
        data = bed.directory / f"{cell.name}-{pair.name}-{side}.perf"
        # Without call chains: unwinding by DWARF costs more than the proxy.
        child = subprocess.Popen(
            ["taskset", "--cpu-list", str(LOAD_CPU), "perf", "record", "--event", "cpu-clock", "--freq",
             str(FREQUENCY), "--output", str(data), "--pid", str(process.child.pid)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        recorders.append((child, data))
    cell.generate(bed, pair.target, seconds)
    for child, data in recorders:
        child.send_signal(signal.SIGINT)
        if child.wait(30) not in (0, -signal.SIGINT):
            raise Failed("perf record failed: is linux-perf installed, and perf_event_paranoid low enough?")
        report = results / (data.stem + ".txt")
        command = ["perf", "report", "--input", data, "--stdio", "--percent-limit", "0.05", "--column-widths", "12,110"]
        report.write_text("\n".join(bed.run([*command, "--sort", keys], 120) for keys in ("dso", "symbol")))
        print(f"profile: {report}", flush=True)
