"""Old names of what was renamed: they still work, with a warning that names the new one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any


def warn_renamed(old: str, new: str, *, stacklevel: int = 3) -> None:
    """Warn that ``old`` is called ``new`` now.

    Args:
        old: as the user wrote it.
        new: what to write instead.
        stacklevel: frames up to the user's line.
    """
    warnings.warn(f"{old} is now called {new}; the old name will go in 1.0", FutureWarning, stacklevel=stacklevel)


def rename_keys(data: Mapping[str, Any], renamed: Mapping[str, str], where: str) -> dict[str, Any]:
    """A copy of ``data`` with today's key names; old ones warn.

    >>> rename_keys({"new": 1}, {"old": "new"}, "example")
    {'new': 1}

    Args:
        data: as read from a file.
        renamed: old name → new name.
        where: what the keys belong to, for the warning.
    """
    result = {}
    for key, value in data.items():
        if key in renamed and renamed[key] not in data:
            warn_renamed(f"{where}: {key!r}", repr(renamed[key]), stacklevel=4)
            key = renamed[key]
        result[key] = value
    return result
