"""On what, and of what, a result was measured: a figure without these is not quoted."""

import json
import os
import platform
import subprocess
import time
from pathlib import Path


def describe(commit, command, versions):
    """Machine, commit and command."""
    cpu = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.machine())
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    return {"date": time.strftime("%Y-%m-%d %H:%M"), "cpu": cpu, "processors": os.cpu_count(),
            "memory_gib": round(memory, 1), "kernel": platform.release(),
            "tcp_congestion_control": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
            "load_at_start": os.getloadavg(), "commit": commit, "command": command, "versions": versions}


def commit(root):
    """The short commit, with `-dirty` when the checkout differs from it."""
    said = subprocess.run(["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude", "*"],
                          capture_output=True, text=True)
    return said.stdout.strip() or "unknown"


def save(path, about):
    path.write_text(json.dumps(about, indent=2) + "\n")
