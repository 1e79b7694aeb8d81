"""Profiles as text for other programs: JSON with everything, CSV with a line for each time."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from .result import MEASURED, REFUSED, SCHEMA, TOO_LARGE, Profile, Row


def to_json(profiles: Sequence[Profile]) -> str:
    """One object: of one profile its own, as :meth:`Profile.to_dict` has it, of several their list.

    Both have ``"schema"``, at present 2. With one profile there is ``"systems"`` beside it, with several
    ``"profiles"``, a list of objects that are each like that of one.
    """
    told = [profile.to_dict() for profile in profiles]
    whole = told[0] if len(told) == 1 else {"schema": SCHEMA, "profiles": told}
    return json.dumps(whole, indent=2, allow_nan=False) + "\n"


def to_csv(profiles: Sequence[Profile]) -> str:
    """A header, and a line for each profile, system and kind: ``forward``, ``step``, ``adam``.

    ``status`` is ``measured``, ``refused``, ``too large``, or empty where a system has no such kind.
    ``versus_dense`` and ``noise`` are of the time of that line. What is not known is empty.
    """
    stream = io.StringIO()
    lines = [line for profile in profiles for row in profile.rows for line in _lines(profile, row)]
    writer = csv.DictWriter(stream, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def _lines(profile: Profile, row: Row) -> Iterator[dict[str, Any]]:
    sizes, against = profile.sizes, profile.against_dense(row)
    for kind, timing in row.times.items():
        first, third = timing.quartiles_s if timing else (None, None)
        found = against[kind]
        yield {
            "file": profile.name,
            "batch": sizes.batch,
            "system": row.name,
            "kind": kind,
            "status": _status(row, kind),
            "median_s": timing and timing.median_s,
            "quartile1_s": first,
            "quartile3_s": third,
            "rounds": timing and len(timing.samples_s),
            "versus_dense": found and found.ratio,
            "noise": found and found.noise,
            "out_features": sizes.out_features,
            "in_features": sizes.in_features,
            "nnz": sizes.nnz,
            "density": profile.density,
            "dtype": profile.dtype,
            "device": profile.device,
            "threads": profile.machine.threads,
            "total_bytes": row.ledger.total_bytes,
            "needed_bytes": row.needed_bytes,
            "peak_bytes": row.peak and row.peak.peak_bytes,
            "disturbed": profile.disturbed,
        }


def _status(row: Row, kind: str) -> str:
    if row.times[kind]:
        return MEASURED
    if not row.fits:
        return TOO_LARGE
    return REFUSED if kind in dict(row.refusals) else ""
