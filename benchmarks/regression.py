"""Has a ratio become worse than the one on record? Pure: a result and a recorded one in, sentences out.

Only ratios are compared, because frames a second belong to a machine. A ratio counts as worse when even its best round is
beyond the recorded figure by more than the slack, so that one disturbed round is no alarm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SLACK = 0.15  # the recorded figures' own spread on two cores is about 10 %
GREATER_IS_BETTER = ("efficiency", "cpu_efficiency", "vs_", "exactly_once_ratio")
LESS_IS_BETTER = (
    "overhead_ratio",
    "client_ratio_",
    "statistics_ratio",
    "p99_ratio",
    "growth_",
    "worker_vs_simplejpeg_",
)
NOT_OURS = ("growth_sizes",)  # pixels cost what they cost


def regressions(result: Mapping[str, Any], recorded: Mapping[str, Any], slack: float = SLACK) -> list[str]:
    """A sentence for each ratio that is worse than recorded. Ratios that only one of the two has are left out."""
    found = []
    for key in result:
        if f"{key}_low" not in result or f"{key}_low" not in recorded or key.startswith(NOT_OURS):
            continue
        if key.startswith(GREATER_IS_BETTER):
            best, bar, worse = result[f"{key}_high"], recorded[key] * (1 - slack), "less"
            fell = best < bar
        elif key.startswith(LESS_IS_BETTER):
            best, bar, worse = result[f"{key}_low"], recorded[key] * (1 + slack), "more"
            fell = best > bar
        else:
            continue
        if fell:
            found.append(f"{key} is {best:g} at best, {worse} than the recorded {recorded[key]:g} by over {slack:.0%}")
    return found
