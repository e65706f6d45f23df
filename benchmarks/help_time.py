"""How long `cryomorph --help` takes: best of five, each in a fresh process. The limit is 0.4 s.

python benchmarks/help_time.py
"""

from __future__ import annotations

import subprocess
import sys
import time

COMMANDS = (["--help"], ["--version"], ["train"], ["prepare", "--help"], ["train", "linear", "--help"])


def seconds(arguments: list[str]) -> float:
    """Wall time of one command line."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "cryomorph.cli.main", *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    for arguments in COMMANDS:
        print(f"cryomorph {' '.join(arguments):22} {min(seconds(arguments) for _ in range(5)):6.3f} s")
