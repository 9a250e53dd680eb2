"""Every identity holds to its tolerance; and the documents that tell of them tell the truth."""

import importlib
import inspect
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from identities import (
    IDENTITIES,
    absorbing_nelbo,
    chains,
    flow_matching,
    measure,
    points,
    udlm,
)

ROOT = Path(__file__).parent.parent
THEORY = ROOT / "docs" / "theory.md"
sys.path.insert(0, str(ROOT / "benchmarks"))

import exactness  # noqa: E402
from exactness import between_markers, table  # noqa: E402


@pytest.mark.parametrize("name", IDENTITIES)
def test_every_identity_holds_to_its_tolerance(name):
    """And none of them compares nothing, or one number with itself."""
    found = measure(name)
    assert found.error <= IDENTITIES[name].tolerance
    assert found.count >= 4
    assert found.spread > 0


def test_flow_matchings_generalised_kl_is_not_the_uniform_bound():
    """It bounds another chain of the same marginals: never call it the uniform ELBO."""
    for chain in chains("uniform"):
        at = points(chain)
        assert (flow_matching(at) - udlm(at)).abs().max() > 0.1


def test_a_perfect_belief_costs_nothing_and_a_worse_one_more():
    """The plain formulas, too, are costs: 0 where the belief is the truth, above elsewhere."""
    for form, kind in ((udlm, "uniform"), (absorbing_nelbo, "absorbing"), (flow_matching, "uniform")):
        for chain in chains(kind):
            at = points(chain, masked=kind == "absorbing")
            truth = torch.eye(chain.k + 1, dtype=torch.float64)[at.x]
            near = (1 - 1e-9) * truth + 1e-9 / chain.k
            near[:, -1] = 0
            assert form(replace(at, p=near)).abs().max() < 1e-4
            assert (form(at) > 0).all()


def test_the_theory_holds_the_table_of_today():
    """All but the measured figures, whose last digits differ between machines."""

    def still(text):
        return [re.sub(r"\| [^|]* \| ([^|]*) \|$", r"| \1 |", line) for line in text.strip().splitlines()]

    assert still(between_markers(THEORY.read_text())) == still(table())


def test_the_command_fails_where_an_identity_is_out_of_its_tolerance(monkeypatch, capsys):
    names = ("schedules_are_those_of_the_papers", "the_uniform_bound_has_udlms_form")
    found = {name: IDENTITIES[name] for name in names}
    monkeypatch.setattr(sys, "argv", ["exactness.py"])
    monkeypatch.setattr(exactness, "IDENTITIES", found)
    exactness.main()
    assert capsys.readouterr().out == table()
    found[names[1]] = replace(found[names[1]], tolerance=0.0)
    with pytest.raises(SystemExit, match=f"out of tolerance: {names[1]}$"):
        exactness.main()


LINK = re.compile(r"\[`([\w.]+)`\]\(\.\./([\w/]+\.py)\)")


def problem_of(name, path):
    """Why a link by a name to a file is none to what computes something; None for one that is."""
    parts = Path(path).with_suffix("").parts
    module = ".".join(parts if parts[0] == "ddcli" else parts[1:])
    found = importlib.import_module(module)
    for part in name.split("."):
        if getattr(found, "_is_protocol", False):
            return f"{name} is declared there, and computed elsewhere"
        if not hasattr(found, part):
            return f"{module} has no {name}"
        found = inspect.getattr_static(found, part)
    found = inspect.unwrap(getattr(found, "func", found))  # of a cached property
    if not hasattr(found, "__qualname__"):  # a number
        return (
            None if re.search(rf"^{name}\b *[:=]", (ROOT / path).read_text(), re.M) else f"{name} is imported"
        )
    where = found.__module__, found.__qualname__
    return None if where == (module, name) else f"{name} of {module} is {'.'.join(where)}"


def test_every_name_the_theory_links_is_what_computes_it_in_the_file_it_links():
    links = set(LINK.findall(THEORY.read_text()))
    assert len(links) > 50
    assert [found for link in links if (found := problem_of(*link))] == []


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("Process.likelihood", "ddcli/process/base.py"),  # a protocol's
        ("Absorbing.marginal", "ddcli/process/interpolating.py"),  # inherited
        ("posterior", "ddcli/objective.py"),  # imported
        ("Interpolating.likelihod", "ddcli/process/interpolating.py"),
    ],
)
def test_a_link_to_what_computes_nothing_there_is_found(name, path):
    assert problem_of(name, path)


def test_every_section_of_the_theory_links_a_function_and_what_holds_it():
    sections = re.split(r"^## ", THEORY.read_text(), flags=re.M)[1:]
    for section in sections:
        paths = [path for _, path in LINK.findall(section)]
        title = section.splitlines()[0]
        assert any(path.startswith("ddcli/") for path in paths), title
        assert any(path.startswith("tests/") for path in paths), title
