"""The table of docs/models.md, which `make families` writes: that it is whole, and that it is so."""

import subprocess
import sys
from pathlib import Path

import borrowed
import ddit_reference
import pytest

ROOT = Path(__file__).parent.parent
DOCS = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
TABLE = DOCS.partition("<!-- families: written by benchmarks/families.py -->\n")[2].partition("<!--")[0]
ROWS = {line.split(" |")[0].strip("| ").partition(" (")[0]: line for line in TABLE.splitlines()[2:]}


def test_every_family_that_is_tried_has_its_row():
    tried = borrowed.FAMILIES.keys() | borrowed.DECODERS.keys() - borrowed.CAUSAL
    tried |= ddit_reference.ORIGINALS.keys() | borrowed.WRITERS.keys()
    assert tried == {name for name in ROWS if not name.startswith("ddcli's own")}


@pytest.mark.slow
def test_the_rows_say_what_is_so():
    command = [sys.executable, "benchmarks/families.py", "--only", "blocks,distilbert,gpt2,duo,diffusion"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    head, _, *rows = told.splitlines()
    assert head == TABLE.splitlines()[0]
    assert len(rows) == 5
    assert all(row in ROWS.values() for row in rows)
