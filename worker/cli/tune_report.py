"""What `headrace tune` found: as a settings file with its reasons, as a table, and as one JSON object."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from worker import config
from worker.settings import Settings
from worker.tuning.agreement import Agreement
from worker.tuning.arrangements import Arrangement, Ground
from worker.tuning.choosing import Choice, Measured, median


@dataclass(frozen=True, slots=True)
class Answered:
    """A question, every run of every answer tried, and what it came to."""

    name: str
    results: Mapping[Arrangement, Sequence[Measured]]
    choice: Choice


@dataclass(slots=True)
class Tuned:
    """All of it, in the order it was found out. `agreement` is None where scaled decoding was not judged."""

    settings: Settings
    ground: Ground
    agreement: Agreement | None
    scaled_decode: bool
    frames: int = 0
    answered: list[Answered] = field(default_factory=list)

    @property
    def arrangement(self) -> Arrangement:
        """The one to use."""
        return self.answered[-1].choice.arrangement if self.answered else self.ground.start

    @property
    def gain(self) -> float:
        """Frames a second with it / with the defaults, of the last question, which asks for that; 1 if none did."""
        last = self.answered[-1].results if self.answered else {}
        if self.ground.start not in last or self.arrangement == self.ground.start:
            return 1.0
        ours, defaults = median(last[self.arrangement]), median(last[self.ground.start])
        return ours.frames_per_second / defaults.frames_per_second

    @property
    def keys(self) -> dict[str, int]:
        """The settings chosen."""
        return self.arrangement.settings(self.settings.infer.backend == "local")

    def beside(self) -> list[str]:
        """What a settings file can't say, a sentence each."""
        said = [
            f"run {self.arrangement.processes} worker process{'es' * (self.arrangement.processes > 1)} on this machine"
        ]
        if self.arrangement.engines and self.settings.infer.backend == "triton":
            said.append(f"instance_group count of the model in Triton: {self.arrangement.engines}")
        if self.agreement is not None:
            said.append(f"scaled decoding: {self.agreement}; {_advice(self.agreement, self.scaled_decode)}")
        return said

    def fields(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "processes": self.arrangement.processes,
            "engines": self.arrangement.engines,
            "settings": self.keys,
            "gain": round(self.gain, 4),
            "frames_per_run": self.frames,
            "cores": self.ground.cores,
            "backend": self.settings.infer.backend,
            "model": self.settings.model.name,
            "scaled_decode": None
            if self.agreement is None
            else {**asdict(self.agreement), "passes": self.agreement.passes},
            "questions": [
                {
                    "name": each.name,
                    "chosen": asdict(each.choice.arrangement),
                    "reason": each.choice.reason,
                    "tried": [_tried(way, runs) for way, runs in each.results.items()],
                }
                for each in self.answered
            ],
        }


def settings_text(tuned: Tuned) -> str:
    """A settings file: the user's own values that are not the defaults, with the chosen ones in their place."""
    chosen = "".join(f"# {each.name}: {each.choice.reason}\n" for each in tuned.answered)
    beside = "".join(f"# {sentence}\n" for sentence in tuned.beside())
    head = f"# headrace tune, {tuned.ground.cores} cores, {tuned.frames} frames a run, {tuned.gain:.2f} times the defaults.\n"
    # The chosen ones also where they are the default: the file is then the whole answer.
    values = {**config.changed(tuned.settings), **tuned.keys}
    return f"{head}{chosen}{beside}" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


def show(console: Console, tuned: Tuned, out: Path) -> None:
    """A table for each question, and what to do."""
    for each in tuned.answered:
        table = Table(title=each.name, title_justify="left", title_style="bold")
        for column in (
            "processes",
            "engines",
            "threads",
            "batch",
            "in flight",
            "frames/s",
            "CPU ms a frame",
            "runs",
            "",
        ):
            table.add_column(column, justify="right")
        for way, runs in each.results.items():
            seen, rates = median(runs), [run.frames_per_second for run in runs]
            table.add_row(
                str(way.processes),
                str(way.engines or "-"),
                str(way.threads),
                str(way.batch),
                str(way.in_flight),
                f"{seen.frames_per_second:.1f} ({min(rates):.1f}-{max(rates):.1f})",
                f"{seen.cpu_ms:.2f}",
                str(len(runs)),
                "chosen" if way == each.choice.arrangement else "",
                style="bold green" if way == each.choice.arrangement else "",
            )
        console.print(table)
        console.print(each.choice.reason, soft_wrap=True)
    for sentence in tuned.beside():
        console.print(f"- {sentence}", soft_wrap=True)
    console.print(f"{tuned.gain:.2f} times the defaults; headrace run -c {out}", style="bold", soft_wrap=True)


def _advice(agreement: Agreement, allowed: bool) -> str:
    if not agreement.is_judged:
        return "too few to judge it by: give more pictures like yours that are larger than the model's input"
    if agreement.passes:
        return "the contract allows it" if allowed else "set scaled_decode = true in the model's preprocess.toml"
    return "set scaled_decode = false in the model's preprocess.toml" if allowed else "the contract rightly forbids it"


def _tried(way: Arrangement, runs: Sequence[Measured]) -> dict[str, Any]:
    seen = median(runs)
    return {
        **asdict(way),
        "frames_per_second": round(seen.frames_per_second, 2),
        "cpu_ms_per_frame": round(seen.cpu_ms, 3),
        "runs": [round(run.frames_per_second, 2) for run in runs],
    }
