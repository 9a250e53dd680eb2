"""Print what training survives, as a Markdown table: each fault, how often it was tried, what was lost.

The run is a tiny one, so that a fault costs seconds; what a checkpoint is made of is the same for any size.
Lost: the most steps that had to be done once more. A small disk is a tmpfs, for which one has to be root.

python benchmarks/torture.py --kills 25 --flips 200 --seed 0
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))  # tiny runs live there

import torch
from bench import heading
from killing import assert_whole, kill_while_training
from safetensors.torch import load_file
from tiny import Heard, assert_same_run, copy_of, files, tiny_config, words

from ddcli.checkpoint import checkpoints, intact_checkpoint, read_checkpoint
from ddcli.config import Config, load_config
from ddcli.errors import DdcliError, RunFailed
from ddcli.files import verified
from ddcli.training import train

EVERY = 4  # steps between checkpoints
STEPS = 40


def row(fault: str, tried: int, survived: int, lost: str) -> str:
    return f"| {fault} | {tried} | {survived} | {lost} |"


def resumed_to_the_end(config: Config, run: Path, whole: Path) -> int:
    """Resume, compare with the run that was never stopped, and return the step it went on from."""
    heard = Heard()
    train(config, run, resume=True, reporter=heard)
    assert_same_run(run, whole)
    return heard.steps[0] - 1 if heard.steps else STEPS


def killed(config: Config, folder: Path, whole: Path, kills: int, rng: random.Random) -> Iterator[str]:
    """Killed again and again, each time where it had come to, until it is through."""
    tried, survived = dict[str, int](), dict[str, int]()
    rounds = 0
    while sum(tried.values()) < kills:
        run = folder / f"killed-{rounds}"
        rounds += 1
        while sum(tried.values()) < kills:
            how = kill_while_training(config, run, rng, seconds=3.0)
            if how == "finished":
                break
            tried[how] = tried.get(how, 0) + 1
            assert_whole(run)
            survived[how] = survived.get(how, 0) + 1
        resumed_to_the_end(config, run, whole)
        shutil.rmtree(run)
    for how, count in sorted(tried.items()):
        yield row(f"SIGKILL {how}", count, survived.get(how, 0), f"at most {EVERY} steps, the same weights")


def damaged(whole: bytes, number: int, rng: random.Random) -> bytes:
    """With one bit flipped, or, one in four times, without an end."""
    content = bytearray(whole)
    if number % 4 == 3:
        return bytes(content[: rng.randrange(len(content))])
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def flipped(run: Path, flips: int, rng: random.Random) -> Iterator[str]:
    """A bit of a file of the newest checkpoint, or its end, is lost: it is found, the one before used."""
    (before, _), (_, newest) = checkpoints(run)[-2:]
    for file in sorted(newest.iterdir()):
        whole, found = file.read_bytes(), 0
        for number in range(flips):
            file.write_bytes(damaged(whole, number, rng))
            if not verified(newest):
                taken = intact_checkpoint(run, lambda line: None)
                assert taken is not None
                found += read_checkpoint(taken)[1]["step"] == before
            elif file.name == "manifest.json":  # another blank between its words says the same
                found += 1
        file.write_bytes(whole)
        yield row(f"bit flipped or file cut, {file.name}", flips, found, f"{EVERY} steps")


def flipped_beside(run: Path, folder: Path, flips: int, rng: random.Random) -> Iterator[str]:
    """The same of what lies beside the checkpoints, and is read to go on: it is refused, or no other run."""
    longer = ["train.steps=" + str(STEPS + 2)]
    whole = copy_of(run, folder)
    train(load_config(whole / "config.toml", longer), whole, resume=True)
    for name in ("config.toml", "tokenizer.json"):
        survived = 0
        for number in range(flips):
            copy = copy_of(run, folder / "damaged")
            (copy / name).write_bytes(damaged((run / name).read_bytes(), number, rng))
            try:
                train(load_config(copy / "config.toml", longer), copy, resume=True)
            except DdcliError:
                survived += 1
            else:
                survived += same_weights(copy, whole)
            shutil.rmtree(copy)
        yield row(
            f"bit flipped or file cut, {name}", flips, survived, "nothing: refused, or the same weights"
        )


def same_weights(run: Path, other: Path) -> bool:
    mine, theirs = (checkpoints(each)[-1][1] / "weights.safetensors" for each in (run, other))
    return mine.read_bytes() == theirs.read_bytes()


@contextmanager
def small_disk(size: int) -> Iterator[Path]:
    """A disk of so many bytes."""
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True)
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", place], check=True)


def full(config: Config, whole: Path, folder: Path, tries: int, rng: random.Random) -> Iterator[str]:
    """The disk fills up at some write; with room again, the run goes on from what it holds."""
    needed = sum(len(content) for content in files(whole).values())
    survived = tried = 0
    while tried < tries:
        with small_disk(int(needed * rng.uniform(0.3, 1.4))) as disk:
            try:
                train(config, disk / "run")
                continue  # there was room
            except RunFailed as error:
                told = str(error)
            assert "No space left" in told
            assert not [*(disk / "run").rglob(".*")]
            tried += 1
            assert_whole(disk / "run")
            shutil.copytree(disk / "run", folder / "run")
        resumed_to_the_end(config, folder / "run", whole)
        shutil.rmtree(folder / "run")
        survived += 1
    yield row("disk full", tried, survived, f"at most {EVERY} steps, no part of a file left")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=25, help="processes killed (default: 25)")
    parser.add_argument("--flips", type=int, default=200, help="damages to each file (default: 200)")
    parser.add_argument("--disks", type=int, default=10, help="disks filled up; needs root (default: 10)")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rng = random.Random(asked.seed)
    print(f"{heading(torch.device('cpu'))}\n", flush=True)
    print("| fault | tried | survived | lost |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "words.txt").write_text(words(300))
        config = tiny_config(
            folder / "words.txt",
            train__steps=STEPS,
            checkpoint__every=EVERY,
            samples__every=10,
            train__ema=0.5,
        )
        whole = train(config, folder / "whole")
        assert all(weight.isfinite().all() for weight in load_file(whole / "model.safetensors").values())
        for line in killed(config, folder, whole, asked.kills, rng):
            print(line, flush=True)
        (folder / "copy").mkdir()
        for line in flipped(copy_of(whole, folder / "copy"), asked.flips, rng):
            print(line, flush=True)
        (folder / "longer").mkdir()
        for line in flipped_beside(whole, folder / "longer", asked.flips // 4, rng):
            print(line, flush=True)
        if os.geteuid() == 0 and shutil.which("mount"):
            for line in full(config, whole, folder, asked.disks, rng):
                print(line, flush=True)


if __name__ == "__main__":
    main()
