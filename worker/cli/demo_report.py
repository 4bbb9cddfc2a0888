"""What the demo tells at its end: figures from the records that came out, as a table or as one JSON object."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from rich.console import Console
from rich.table import Table

from worker.cli.audit import Audit
from worker.records import Prediction

_TOP_LABELS = 6


class Report:
    """Collects predictions and dead letters. Times are the records' own, so the reader's pace doesn't count.

    Throughput is that of the frames sent at once: those after the first batch, over the time from its `predicted_at`
    to the last one's. Latency is `captured_at` to `predicted_at` of the paced frames; where none were paced, of all.
    """

    def __init__(self, backend: str, broker: str, sent: int) -> None:
        self.backend = backend
        self.broker = broker
        self.sent = sent
        self.predictions = 0
        self.model = ""
        self.model_version = ""
        self.labels: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self._burst_at: list[float] = []
        self._paced_ms: list[float] = []
        self._burst_ms: list[float] = []

    def prediction(self, prediction: Prediction, paced: bool) -> None:
        """Take in one prediction; `paced` if its frame was not among those sent at once."""
        self.predictions += 1
        self.model, self.model_version = prediction.model.name, prediction.model.version
        if prediction.classes:
            self.labels[prediction.classes[0].label] += 1
        if prediction.detections:
            self.labels.update(found.label for found in prediction.detections)
        captured = datetime.fromisoformat(prediction.captured_at).timestamp()
        predicted = datetime.fromisoformat(prediction.predicted_at).timestamp()
        latency_ms = max(0.0, (predicted - captured) * 1000)
        if paced:
            self._paced_ms.append(latency_ms)
        else:
            self._burst_ms.append(latency_ms)
            self._burst_at.append(predicted)

    def dead_letter(self, reason: str) -> None:
        """Take in one dead letter."""
        self.reasons[reason] += 1

    @property
    def frames_per_second(self) -> float:
        """0 where all frames came in one batch: one batch has no rate."""
        if not self._burst_at:
            return 0.0
        first, last = min(self._burst_at), max(self._burst_at)
        after = sum(moment > first for moment in self._burst_at)
        return after / (last - first) if after else 0.0

    def latency_ms(self, quantile: float) -> float | None:
        """Nearest rank; None without predictions."""
        values = sorted(self._paced_ms or self._burst_ms)
        return values[max(0, math.ceil(quantile * len(values)) - 1)] if values else None

    def fields(self, audit: Audit) -> dict[str, object]:
        """For `--json`."""
        return {
            "frames_in": self.sent,
            "predictions": self.predictions,
            "dead_letters": self.reasons.total(),
            "dead_letters_by_reason": dict(self.reasons),
            "lost": audit.lost,
            "duplicates": audit.duplicates,
            "out_of_order": audit.out_of_order,
            "frames_per_second": round(self.frames_per_second, 1),
            "latency_ms": {"p50": _rounded(self.latency_ms(0.50)), "p99": _rounded(self.latency_ms(0.99))},
            "backend": self.backend,
            "broker": self.broker,
            "model": self.model,
            "model_version": self.model_version,
            "labels": dict(self.labels.most_common()),
            "complaints": audit.complaints(),
        }


def show(console: Console, report: Report, audit: Audit, next_commands: Sequence[str]) -> None:
    """Print the short table and what to try next."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row("frames in", str(report.sent))
    labels = ", ".join(f"{label} {count}" for label, count in report.labels.most_common(_TOP_LABELS))
    others = len(report.labels) - _TOP_LABELS
    more = f", {others} more classes" if others > 0 else ""
    table.add_row("predictions", f"{report.predictions}: {labels}{more}" if labels else str(report.predictions))
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(report.reasons.items()))
    table.add_row("dead letters", f"{report.reasons.total()}: {reasons}" if reasons else "0")
    table.add_row("counted", f"{audit.lost} lost, {audit.duplicates} duplicated, {audit.out_of_order} out of order")
    table.add_row("throughput", f"{report.frames_per_second:,.0f} frames/s")
    p50, p99 = report.latency_ms(0.50), report.latency_ms(0.99)
    if p50 is not None and p99 is not None:
        table.add_row("latency", f"p50 {p50:.0f} ms, p99 {p99:.0f} ms at half of that load")
    table.add_row(
        "ran on", f"{report.model or 'no model'} {report.model_version}, {report.backend}, broker {report.broker}"
    )
    console.print(table)
    for complaint in audit.complaints():
        console.print(complaint, style="bold red")
    console.print("\nTry next:")
    for command in next_commands:
        console.print(f"  {command}", style="cyan", soft_wrap=True)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
