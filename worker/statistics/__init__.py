"""What went in and what came out, in numbers that can be merged: the drift monitor's raw material.

Decode threads take `features` of each grid; the publisher gives a `Collector` per source partition each batch's rows and
cuts a summary for each range it commits.
"""

from __future__ import annotations

from worker.statistics.collector import Collector, Cut
from worker.statistics.features import FEATURES, features

__all__ = ["FEATURES", "Collector", "Cut", "features"]
