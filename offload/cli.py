"""The ``offload`` command: finds the command, and turns every way of failing into one line and an exit status."""

import errno
import inspect
import io
import logging
import os
import sys
import traceback
import warnings
from importlib import metadata
from pathlib import Path
from typing import Annotated, Final

import typer

from offload.commands import interrupts
from offload.commands.bench import bench_app
from offload.commands.convert import convert
from offload.commands.doctor import doctor
from offload.commands.pack import pack
from offload.commands.plan import plan
from offload.commands.report import report
from offload.commands.run import run
from offload.commands.simulate import simulate
from offload.commands.trace import trace_app
from offload.commands.train_predictor import train_predictor
from offload.commands.tune import tune
from offload.threads import wait_politely
from tiers.errors import UsageError, WorkloadWarning, WorldError

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2

app = typer.Typer(
    name="offload",
    help="Runs models that do not fit: GPU memory, host RAM, NVMe and computational storage as one memory.",
    epilog="Sizes are written 64MiB or 8GiB. Any command takes --debug, which shows the traceback of an error.",
    add_completion=False,
    rich_markup_mode=None,
)
for _command in (convert, doctor, pack, plan, report, run, simulate, train_predictor, tune):
    app.command()(_command)
app.add_typer(bench_app, name="bench")
app.add_typer(trace_app, name="trace")
for _app in (app, bench_app, trace_app):
    for _info in _app.registered_commands:
        _info.short_help = inspect.getdoc(_info.callback)  # in full, where it would be cut off after some words


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Without a command, the help."""
    if version:
        typer.echo(f"offload-runtime {metadata.version('offload-runtime')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> int:
    """Runs the command line of this process and returns its exit status; never raises but for SystemExit."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    is_debug = len(arguments) < len(sys.argv) - 1
    _prepare_streams(is_debug)
    wait_politely()
    interrupts.watch()
    try:
        status = app(args=arguments, prog_name="offload", standalone_mode=False) or OK
        interrupts.check()
    except KeyboardInterrupt:
        status = _stopped()
    except Exception as error:  # noqa: BLE001  # the last line of defence: a person never sees a traceback unasked
        if is_debug:
            traceback.print_exc()
        message, status = _explain(error)
        _complain(message)
    return int(status)


def _stopped() -> int:
    status, word = interrupts.status()
    _complain(word)
    return status


def _explain(error: Exception) -> tuple[str, int]:
    match error:
        case UsageError():
            return str(error), USAGE
        case typer.TyperException():
            return error.format_message(), USAGE
        case WorldError():
            return str(error), FAILED
        case typer.Abort():
            status, word = interrupts.status()
            return word, status
        case MemoryError() | OSError():
            return _explain_machine(error)
        case _:
            return _internal(error), FAILED


def _explain_machine(error: MemoryError | OSError) -> tuple[str, int]:
    """What the machine refuses, wherever it does: the places that expect it say more."""
    match error:
        case MemoryError():
            what = f": {error}".removesuffix(": ")
            return f"out of memory{what}; ask for less, or run it where there is more", FAILED
        case OSError(errno=errno.ENOSPC | errno.EDQUOT, filename=None):
            return f"the answer cannot be written: {error.strerror}; free some space", FAILED
        case PermissionError(filename=str() | Path()):
            return f"{error.filename}: {error.strerror}; name what this user may use", USAGE
        case _:
            return _internal(error), FAILED


def _internal(error: Exception) -> str:
    what = f"{type(error).__name__}: {error}".removesuffix(": ")
    return f"internal error: {what} (run with --debug for the traceback)"


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    _complain(f"warning: {message}")


def _complain(message: str) -> None:
    print(f"offload: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201


def _open_closed_streams() -> None:
    """Where the shell closed a stream its number would go to the next file that is opened, and what is said into it."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which takes the lowest number that is free: this one
            os.set_inheritable(number, True)  # or a child would find it closed again
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _prepare_streams(is_debug: bool) -> None:
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        # A generated character that the terminal cannot show is no reason to stop.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if not is_debug:
        # What the libraries below have to say is about their insides; set before they are imported.
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", WorkloadWarning)
        warnings.showwarning = _warn
        logging.disable(logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())
