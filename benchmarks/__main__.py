"""`python -m benchmarks NAME [--json] [--quick]`, `python -m benchmarks list`.

Progress goes to stderr, tables or (with --json) one JSON object on the last line to stdout.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console

from benchmarks import decode, delivery, document, gpu, kernels, latency, overhead, peers, scale, throughput, transport
from benchmarks.machine import machine
from benchmarks.options import Options
from benchmarks.regression import regressions
from benchmarks.report import print_tables
from worker.errors import HeadraceError

BENCHMARKS: dict[str, tuple[Callable[[Options], dict[str, Any]], str]] = {
    "throughput": (throughput.measure, "frames/s end to end, against the ideal and against the loops people write"),
    "overhead": (overhead.measure, "CPU a frame with a model that costs nothing, against the bare sum of its parts"),
    "delivery": (
        delivery.measure,
        "exactly once against at least once: frames/s, transactions, what a reader sees when",
    ),
    "latency": (latency.measure, "p50 and p99 from produced to predicted, at half of the capacity"),
    "kernels": (kernels.measure, "bandwidth of the CUDA kernels against a copy's, on a GPU"),
    "gpu": (gpu.measure, "frames/s on a GPU host, against perf_analyzer's and trtexec's own figures"),
    "peers": (peers.measure, "frames/s against the loops and frameworks that people use, each at its best"),
    "scale": (scale.measure, "CPU a frame over workers, partitions, backlog and sizes of frames"),
    "transport": (transport.measure, "CPU a frame by the way it travels to the model"),
    "decode": (decode.measure, "CPU a frame of JPEG decoders, from 10 KB to 5 MB"),
}


WORSE = 4


def main(argv: list[str] | None = None) -> int:
    """Exit codes as those of `headrace`: 0 done, 2 usage, 3 a dependency can't be had, 4 frames were lost or, with
    --check, a ratio is worse than it was.
    """
    options = _parser().parse_args(argv)
    if options.name == "list":
        names = {name: sentence for name, (_, sentence) in BENCHMARKS.items()}
        print(json.dumps(names) if options.json else "\n".join(f"{name:12} {text}" for name, text in names.items()))
        return 0
    if options.model and (options.name != "throughput" or options.write or options.check):
        print("benchmarks: --model is for trials of throughput, without --write and --check", file=sys.stderr)
        return 2
    if options.write and not document.has_place(options.name):
        print(f"benchmarks: {document.PAGE} has no place for the figures of {options.name}", file=sys.stderr)
        return 2
    if options.check and not (record := document.record_of(options.name)).exists():
        print(f"benchmarks: there is nothing on record to check {options.name} against, see --write", file=sys.stderr)
        return 2
    recorded = json.loads(record.read_text(encoding="utf-8")) if options.check else {}
    about = machine()  # before the benchmark: its own load is not the machine's
    started = time.monotonic()
    try:
        figures = BENCHMARKS[options.name][0](Options(options.quick, options.frames, options.rounds, options.model))
    except HeadraceError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return error.exit_code
    result = {
        "benchmark": options.name,
        **figures,
        "quick": options.quick,
        "date": time.strftime("%Y-%m-%d"),
        "took_s": round(time.monotonic() - started, 1),
        "machine": about,
    }
    if options.json:
        print(json.dumps(result))
    else:
        print_tables(result, Console())
    if options.write and "skipped" not in result:
        document.write(result)
    if options.check:
        for sentence in (worse := regressions(result, recorded)):
            print(f"benchmarks: {sentence}", file=sys.stderr)
        return WORSE if worse else 0
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=["list", *BENCHMARKS])
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line of stdout")
    parser.add_argument("--quick", action="store_true", help="under four minutes, same keys, wider spread")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/performance.md and on record")
    parser.add_argument("--check", action="store_true", help="exit code 4 if a ratio is worse than the one on record")
    parser.add_argument("--frames", type=_positive, help="frames of each run, instead of the benchmark's own number")
    parser.add_argument("--rounds", type=_positive, help="rounds of each side, instead of the benchmark's own number")
    parser.add_argument(
        "--model",
        choices=["efficientnet_lite2", "efficientnet_lite0"],
        help="of throughput: the lighter one shows the worker's share on a machine where Lite2 takes all the time",
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a positive number")
    return number


if __name__ == "__main__":
    sys.exit(main())
