"""The table of commands, and the end of every error: a sentence on stderr and an exit code.

0 done, 1 internal error, 2 usage or configuration, 3 a dependency can't be reached, 4 something was lost or refused
that should not have been.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

import typer

from worker.cli import batch, configuration, demo, dlq, doctor, engine, produce, replay, run, tail, tune
from worker.cli.output import result, say
from worker.errors import HeadraceError
from worker.observe import logs

EXIT_INTERNAL = 1
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it

app = typer.Typer(
    name="headrace",
    help="Frames in, predictions out: a high-throughput inference worker for image streams.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback goes to the log, as text or JSON like all else
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(run.run)
app.command()(batch.batch)
app.command()(demo.demo)
app.command()(produce.produce)
app.command()(tail.tail)
app.command()(doctor.doctor)
app.command()(tune.tune)
dlq.app.command()(replay.replay)
app.add_typer(dlq.app, name="dlq")
app.add_typer(configuration.app, name="config")
app.add_typer(engine.app, name="engine")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `arguments` without the program's name, by default the process's."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logs.configure("warning")  # `run` sets up its own
    # A broker that is away makes the client write a line for each try; here a command's sentence says it once.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    try:
        app(args=arguments, prog_name="headrace", standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except HeadraceError as error:
        return _failed(str(error), error.exit_code, arguments)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        logging.getLogger(__name__).critical("internal error, please report it with this traceback", exc_info=True)
        return _failed(f"{type(error).__name__}: {error}", EXIT_INTERNAL, arguments)
    return 0


def _failed(message: str, exit_code: int, arguments: Sequence[str]) -> int:
    say(f"headrace: {message}")
    if "--json" in arguments:  # the promise of one object on the last line holds for failures too
        result({"error": message, "exit_code": exit_code})
    return exit_code
