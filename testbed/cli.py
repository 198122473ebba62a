"""The command `testbed` and its subcommands; `python -m testbed.<name>` is the same as `testbed <name>`.

Help answers at once: what a subcommand needs is imported when it runs.
Exit status: 0 good, 1 a method failed (or, of doctor, something is missing), 2 bad input, 3 the network is not the
declared one or could not be made or removed, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

BAD_INPUT, NO_NETWORK = 2, 3
app = typer.Typer(
    help="Run one Transformer over several devices on a declared network, and measure it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
TopologyFile = Annotated[Path, typer.Argument(metavar="FILE", help="A topology file, e.g. topologies/local2.yaml.")]


@app.command()
def run(
    file: TopologyFile,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run folder, new or empty [default: runs/<name>/<UTC time>].")
    ] = None,
) -> None:
    """Build the network of FILE, run its methods, save records and print the table."""
    with _one_line_each():
        from testbed import experiment

        code: int = experiment.execute(_readable(file), out)
    raise typer.Exit(code)


@app.command()
def check(file: TopologyFile) -> None:
    """Validate FILE and draw what it implies, without root."""
    with _one_line_each():
        from testbed import check as module

        typer.echo(module.check(_readable(file)))


@app.command()
def doctor(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="A topology that is to run here.")] = None,
) -> None:
    """Say what this machine can do, what is missing and how to get it."""
    with _one_line_each():
        from testbed import doctor as module

        code = module.main(file and _readable(file))
    raise typer.Exit(code)


@app.command()
def clean() -> None:
    """Remove what a run that crashed left behind, and only that."""
    with _one_line_each():
        from testbed import clean as module

        removed = module.clean()
    typer.echo("\n".join(f"removed {line}" for line in removed) or "nothing to remove")


@app.command()
def compare(runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="One or several run folders.")]) -> None:
    """Print the tables of one or several run folders side by side."""
    with _one_line_each():
        from rich.console import Console

        from testbed import compare as module

        module.compare(runs, Console(highlight=False))


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line `argv` (default: this process's) and exit with its status."""
    app(args=None if argv is None else list(argv), prog_name="testbed")
    sys.exit(0)


@contextmanager
def _one_line_each() -> Iterator[None]:
    """Mistakes and machines that cannot, as lines on stderr, never a traceback: exit 2, or 3 for the network."""
    from runtime.errors import RuntimeFault
    from testbed.hosts import HostError
    from testbed.store import StoreError
    from testbed.topology import TopologyError

    try:
        yield
    except TopologyError as error:
        _refuse(error.problems)
    except (StoreError, RuntimeFault) as error:
        _refuse([str(error)])
    except HostError as error:
        _refuse([str(error)], NO_NETWORK)


def _refuse(lines: Sequence[str], code: int = BAD_INPUT) -> NoReturn:
    for line in lines:
        typer.echo(line, err=True)
    raise typer.Exit(code)


def _readable(file: Path) -> Path:
    """`file` if it can be read; else one line and exit 2."""
    try:
        with file.open("rb"):
            return file
    except OSError as error:
        _refuse([f"{file}: {error.strerror}; give a topology file, e.g. topologies/local2.yaml"])


if __name__ == "__main__":
    main()
