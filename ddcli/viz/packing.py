"""A story as the page reads it: numbers by columns, and of each row only what is not as in the row before."""

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from .parts import Chain, Chapter, Figured, Measures, Noised, Story, Track

DIGITS = 5  # behind the point: more than a picture shows


def to_json(story: Story) -> str:
    """The story as JSON, of ASCII."""
    return json.dumps(packed(story), separators=(",", ":"), allow_nan=False)


def packed(story: Story) -> dict[str, Any]:
    """The story in plain lists, which JSON can hold; what a figure does not have is null."""
    return {
        "title": story.title,
        "note": story.note,
        "unit": story.unit,
        "pieces": story.pieces,
        "chapters": [_chapter(chapter) for chapter in story.chapters],
    }


def _chapter(chapter: Chapter) -> dict[str, Any]:
    return {
        "name": chapter.name,
        "curves": _columns(chapter.curves),
        "chain": _chain(chapter.chain) if chapter.chain else None,
        "tracks": [_track(track) for track in chapter.tracks],
    }


def _columns(measures: Sequence[Measures]) -> dict[str, list[Any]]:
    return {each.name: [_rounded(getattr(m, each.name)) for m in measures] for each in fields(Measures)}


def _chain(chain: Chain) -> dict[str, Any]:
    return {key: _rounded(value) for key, value in asdict(chain).items()}


def _track(track: Track) -> dict[str, Any]:
    return {
        "title": track.title,
        "length": track.length,
        "start": track.start,
        "clean": track.clean,
        "rows": [_figures(row) for row in track.rows],
        "changes": changes(track.rows),
        "values": _rounded(asdict(track.values)) if track.values else None,
        "events": [_rounded(list(event)) for event in track.events],
        "beliefs": [_rounded(list(belief)) for belief in track.beliefs],
    }


def _figures(row: Figured) -> dict[str, Any]:
    told: dict[str, Any] = {"t": row.t, "noise": row.noise}
    if isinstance(row, Noised):
        told["measures"] = asdict(row.measures)
    else:
        told |= {"step": row.step, "nfe": row.nfe, "masks": row.masks, "revised": row.revised}
    return {key: _rounded(value) for key, value in told.items()}


def changes(rows: Sequence[Figured]) -> list[list[Any]]:
    """Of each row where it differs from the one before, flat: position, token, state, position, ...

    The first row is all there.
    """
    found = list[list[Any]]()
    before: list[tuple[int, str]] | None = None
    for row in rows:
        now = list(zip(row.tokens, row.states, strict=True))
        new = [(i, *there) for i, there in enumerate(now) if before is None or before[i] != there]
        found.append([part for change in new for part in change])
        before = now
    return found


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return value
