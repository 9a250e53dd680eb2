"""Trained runs that many tests read. Whoever wants to change one takes a copy (`tiny.copy_of`)."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tiny import names, train_tiny, words

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is taken from what this machine has kept, and nothing is left there."""
    with pytest.MonkeyPatch.context() as patch:
        assets = str(tmp_path_factory.mktemp("assets"))
        patch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", assets)
        patch.setenv("HF_ASSETS_CACHE", assets)  # of processes that tests start
        yield


@pytest.fixture(scope="session", autouse=True)
def hasty_disk() -> Iterator[None]:
    """Nobody pulls the plug between tests, so their hundred thousand small files need not be waited for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 lines of English words."""
    path = tmp_path_factory.mktemp("data") / "words.txt"
    path.write_text(words(300))
    return path


@pytest.fixture(scope="session")
def names_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 names, one a line."""
    path = tmp_path_factory.mktemp("data") / "names.txt"
    path.write_text(names(300))
    return path


@pytest.fixture(scope="session")
def absorbing_run(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> Path:
    """A character model with absorbing noise, and a sample written halfway."""
    run = tmp_path_factory.mktemp("runs") / "absorbing"
    train_tiny(run, text_file, train__steps=100, checkpoint__every=50, samples__every=50)
    return run


@pytest.fixture(scope="session")
def uniform_run(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> Path:
    """A character model with uniform noise."""
    run = tmp_path_factory.mktemp("runs") / "uniform"
    train_tiny(run, text_file, process__name="uniform", train__steps=100, checkpoint__every=50)
    return run


@pytest.fixture(scope="session")
def records_run(tmp_path_factory: pytest.TempPathFactory, names_file: Path) -> Path:
    """A character model of names, one record a line."""
    run = tmp_path_factory.mktemp("runs") / "records"
    train_tiny(run, names_file, data__lines=True, data__length=None, train__steps=100, checkpoint__every=50)
    return run


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Where a model of a kind that others trained lies, made when it is first asked for."""
    import borrowed  # what most tests have no use for takes seconds to read

    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = borrowed.save(kind, tmp_path_factory.mktemp(kind) / kind)
        return made[kind]

    return folder
