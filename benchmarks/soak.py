"""Train for long, with samples and checkpoints at short intervals, and print what the process holds.

Memory, open files and threads should be flat once all has happened once. The table has the largest of each in
equal parts of the time, and how much was done by then.

python benchmarks/soak.py --minutes 120 --data novel.txt
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))  # tiny runs live there

from tiny import words

EVERY = 5.0  # seconds between looks
SETTINGS = {
    "model.size": "tiny",
    "train.steps": 10_000_000,
    "validation.every": 50,
    "samples.every": 50,
    "checkpoint.every": 20,
    "metrics.every": 10,
}


@dataclass(frozen=True)
class Look:
    minutes: float  # since the start
    resident: int  # bytes
    files: int  # open
    threads: int


def look(process: int, started: float) -> Look:
    place = Path(f"/proc/{process}")
    fields = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
    resident = int(fields["VmRSS"].split()[0]) * 1024
    files, threads = len(list((place / "fd").iterdir())), int(fields["Threads"])
    return Look((time.monotonic() - started) / 60, resident, files, threads)


def steps_done(run: Path) -> int:
    """By the metrics that are written so far."""
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--minutes", type=float, default=120)
    asked.add_argument("--parts", type=int, default=8, help="rows of the table")
    asked.add_argument("--data", type=Path, help="text to train on; random words by default")
    options = asked.parse_args()
    with tempfile.TemporaryDirectory() as place:
        data, run = options.data, Path(place) / "run"
        if data is None:
            data = Path(place) / "words.txt"
            data.write_text(words(20_000))
        settings = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
        command = [
            sys.executable,
            "-m",
            "ddcli",
            "train",
            "--data",
            str(data),
            *settings,
            "-o",
            str(run),
            "-q",
        ]
        started = time.monotonic()
        training = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        print("| minutes | steps | memory, MB | open files | threads | checkpoints kept | samples written |")
        print("|---|---|---|---|---|---|---|")
        for part in range(options.parts):
            looks = []
            while time.monotonic() - started < 60 * options.minutes * (part + 1) / options.parts:
                time.sleep(EVERY)
                if training.poll() is not None:
                    raise SystemExit(f"training ended by itself, with exit code {training.returncode}")
                looks.append(look(training.pid, started))
            most = (max(getattr(each, name) for each in looks) for name in ("resident", "files", "threads"))
            resident, files, threads = most
            kept = len(list((run / "checkpoints").glob("step-*")))
            written = len(list((run / "samples").glob("*.txt")))
            print(
                f"| {looks[0].minutes:.0f} to {looks[-1].minutes:.0f} | {steps_done(run):,} "
                f"| {resident / 1e6:,.0f} | {files} | {threads} | {kept} | {written:,} |",
                flush=True,
            )
        training.send_signal(signal.SIGTERM)
        print(f"\nStopped by SIGTERM: exit code {training.wait()}.")


if __name__ == "__main__":
    main()
