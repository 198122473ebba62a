"""The command `testbed` and its subcommands; `python -m testbed.<name>` is the same as `testbed <name>`.

Help answers at once: what a subcommand needs is imported when it runs.
Exit status: 0 good, 1 a method or Ray failed (or, of doctor, something is missing), 2 bad input, 3 the network is not
the declared one (before the run: nothing ran; after it: what ran is not valid) or could not be made or removed, 4
degraded: the network was the declared one, but was not emulated exactly, 130 interrupted. Of several the first of 3, 1,
4 holds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

BAD_INPUT, NO_NETWORK, INTERRUPTED = 2, 3, 130
AS_TEXT = "-"  # what --draw without a file stands for
app = typer.Typer(
    help="Run one Transformer over several devices on a declared network, and measure it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
TOPOLOGY = "a topology file, e.g. topologies/local2.yaml"
RECIPE = "a recipe, e.g. topologies/recipes/digits_vit.yaml"
PROFILE = "a profile, e.g. topologies/profiles/paper_encoder.yaml"
TopologyFile = Annotated[Path, typer.Argument(metavar="FILE", help=f"{TOPOLOGY.capitalize()}.")]
Shaper = Annotated[
    str | None, typer.Option(metavar="NAME", help="netem, tbf or relay [default: the best that this kernel has].")
]


@app.command()
def run(
    file: TopologyFile,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run folder, new or empty [default: runs/<name>/<UTC time>].")
    ] = None,
    shaper: Shaper = None,
) -> None:
    """Build the network of FILE, prove its links, run its methods, prove the links again, save and print the table.

    Exit 0 good, 1 a method failed, 2 bad input, 3 not the declared network, 4 degraded, 130 interrupted.
    """
    with _one_line_each():
        file = _readable(file)
        from testbed import experiment

        code: int = experiment.execute(file, out, _known(shaper))
    raise typer.Exit(code)


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A topology file with lists in place of values.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Sweep folder, new or of this sweep [default: sweeps/<name>].")
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Run cells again that failed.")] = False,
) -> None:
    """Run every combination of the lists in FILE; what is finished is skipped, so the same command goes on.

    Exit 0 good, 1 a cell failed, 2 bad input, 3 some network was not the declared one, 4 degraded, 130 interrupted.
    """
    with _one_line_each():
        file = _readable(file)
        from testbed.predict.left import estimate
        from testbed.sweep import drive

        code: int = drive.execute(file, out, retry, estimate(file))
    raise typer.Exit(code)


@app.command()
def probe(file: TopologyFile, shaper: Shaper = None) -> None:
    """Build the network of FILE and print what its links do beside what is declared; nothing else runs.

    Exit 0 as declared, 2 bad input, 3 not the declared network, 4 degraded, 130 interrupted.
    """
    from testbed.terminable import terminable

    try:
        with _one_line_each(), terminable():
            code = _probed(file, shaper)
    except KeyboardInterrupt:
        _refuse(["interrupted: the network is removed"], INTERRUPTED)
    raise typer.Exit(code)


def _probed(file: Path, shaper: str | None) -> int:
    file = _readable(file)
    from testbed import check, doctor
    from testbed import probe as module
    from testbed.topology import TopologyError

    shaper = _known(shaper)
    refusals = doctor.problems(check.makeable(file), file, shaper)
    if refusals:
        raise TopologyError(refusals)
    code: int = module.main(file, shaper, typer.echo)
    return code


@app.command()
def check(
    file: TopologyFile,
    draw: Annotated[
        str | None,
        typer.Option(
            metavar="[PATH]", help="Draw into PATH.svg or PATH.mmd (Mermaid); without PATH as text, as always."
        ),
    ] = None,
) -> None:
    """Validate FILE and draw what it implies, without root."""
    with _one_line_each():
        file = _readable(file)
        from testbed import check as module

        if draw is not None and draw != AS_TEXT:
            module.draw_to(file, draw)
        typer.echo(module.check(file))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders or sweep folders.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="The page [default: report.html in RUN, of several in this folder]."),
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the figures as PDF and SVG for a paper, too.")
    ] = None,
) -> None:
    """Write one HTML page about runs, from their raw records alone; it needs nothing but a browser."""
    with _one_line_each():
        from testbed.page import page as module

        for path in module.report(runs, out, figures):
            typer.echo(path)


@app.command()
def trace(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    method: Annotated[
        str | None, typer.Option(metavar="LABEL", help="A method as tables call it; needed where there are several.")
    ] = None,
    request: Annotated[
        int | None, typer.Option(metavar="N", help="Number of the request [default: the first measured].")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The trace.")] = Path("trace.json"),
) -> None:
    """Write what every device did for one request as a trace that Chrome and Perfetto open."""
    with _one_line_each():
        from testbed import trace as module

        typer.echo(module.trace(run, method, request, out))


@app.command()
def profile(
    file: TopologyFile,
    out: Annotated[Path, typer.Option(metavar="PROFILE", help="The file to write.")] = Path("profile.yaml"),
    device: Annotated[str, typer.Option(metavar="NAME", help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch on the CPU.")] = 1,
    repeats: Annotated[
        int, typer.Option(min=1, help="Requests, after one to warm up, of which medians are taken.")
    ] = 5,
) -> None:
    """Time every stage of FILE's methods on this machine, one device at a time, for runs that replay it elsewhere."""
    with _one_line_each():
        if device not in ("cpu", "cuda"):
            _refuse([f"--device {device}: there are cpu and cuda"])
        file = _readable(file)
        from testbed import check as module
        from testbed import profile as profiling

        how = profiling.How(device, threads, repeats)
        profiling.main(module.load(file), out, how, typer.echo)


@app.command()
def doctor(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="A topology that is to run here.")] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Offer to mend what can be mended.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --fix: mend it without asking.")] = False,
) -> None:
    """Say what this machine can do, what is missing and how to get it."""
    with _one_line_each():
        from testbed import doctor as module

        if yes and not fix:
            _refuse(["--yes answers the questions of --fix: give both"])
        code = module.main(file and _readable(file), fix, yes, typer.echo)
    raise typer.Exit(code)


@app.command()
def predict(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE|RUN...", help="A topology file; or run folders and sweep folders.")
    ],
    profile: Annotated[
        Path | None, typer.Option(metavar="PROFILE", help="How long stages take [default: what FILE replays].")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="events or analytic [default: events unless there are many].")
    ] = None,
    shaper: Shaper = None,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say what each method of FILE would take, without running it; or what those of RUN took beside its prediction."""
    with _one_line_each():
        if all(file.is_dir() for file in files):
            if profile or model or shaper:
                _refuse(["--profile, --model and --shaper are for a topology file: a run folder says what it used"])
            from testbed.predict import beside

            beside.main(files, not json, typer.echo)
            return
        if len(files) > 1:
            _refuse(["give one topology file, or run folders and sweep folders only"])
        file, profile = _readable(files[0]), profile and _readable(profile, PROFILE)
        from testbed.predict import command

        how = command.How(model=model, shaper=_known(shaper))
        command.main(file, profile, how, not json, typer.echo)


@app.command()
def prepare(
    file: Annotated[Path, typer.Argument(metavar="RECIPE", help=f"{RECIPE.capitalize()}.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder, new or of this recipe [default: prepared/<name>].")
    ] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="cpu or cuda.")] = "cpu",
) -> None:
    """Train a model and the codebooks of its codes into a folder that topology files name; what is done is skipped."""
    with _one_line_each():
        file = _readable(file, RECIPE)
        from testbed.prepare import command

        code = command.execute(file, out, device)
    raise typer.Exit(code)


@app.command()
def clean() -> None:
    """Remove what a run that crashed left behind, and only that."""
    with _one_line_each():
        from testbed import clean as module

        removed = module.clean()
    typer.echo("\n".join(f"removed {line}" for line in removed) or "nothing to remove")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders or sweep folders.")],
    export: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write a row per run and method: .csv, .parquet, .tex or .md.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="With --export: replace a file that is there.")] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Show runs that are not comparable, and say why.")] = False,
) -> None:
    """Print the tables of one or several runs side by side: paired ratios with 95 % intervals, and what differs.

    Exit 0 good, 2 bad input or runs whose figures mean nothing beside each other.
    """
    with _one_line_each():
        from rich.console import Console

        from testbed import compare as module

        if force and export is None:
            _refuse(["--force replaces the file of --export: give both"])
        module.compare(runs, Console(highlight=False), anyway=anyway, out=export, force=force)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line `argv` (default: this process's) and exit with its status."""
    app(args=_words(sys.argv[1:] if argv is None else argv), prog_name="testbed")
    sys.exit(0)


def _words(argv: Sequence[str]) -> list[str]:
    """The command line with "-" behind every --draw that names no file: options of typer always have a value."""
    words = list[str]()
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        words.append(word)
        if word == "--draw" and (not following or following.startswith("-") or following.endswith((".yaml", ".yml"))):
            words.append(AS_TEXT)
    return words


@contextmanager
def _one_line_each() -> Iterator[None]:
    """Mistakes and machines that cannot, as lines on stderr, never a traceback: exit 2, or 3 for the network."""
    from runtime.errors import RuntimeFault
    from testbed.hosts import HostError
    from testbed.shape import NoShaper
    from testbed.store import StoreError
    from testbed.topology import TopologyError

    try:
        yield
    except TopologyError as error:
        _refuse(error.problems)
    except (StoreError, RuntimeFault) as error:
        _refuse([str(error)])
    except HostError as error:
        _refuse([str(error)], error.exit_status)
    except NoShaper as error:
        _refuse([str(error)], NO_NETWORK)


def _refuse(lines: Sequence[str], code: int = BAD_INPUT) -> NoReturn:
    for line in lines:
        typer.echo(line, err=True)
    raise typer.Exit(code)


def _known(shaper: str | None) -> str | None:
    """`shaper` if there is such a one; else one line and exit 2."""
    from testbed.envelope import SHAPERS
    from testbed.wiring import nearest

    if shaper is not None and shaper not in SHAPERS:
        _refuse([f"--shaper {shaper}: {nearest(shaper, SHAPERS)}there are: {', '.join(SHAPERS)}"])
    return shaper


def _readable(file: Path, wanted: str = TOPOLOGY) -> Path:
    """`file` if it can be read; else one line and exit 2. Asked before what takes seconds to import."""
    try:
        with file.open("rb"):
            return file
    except OSError as error:
        _refuse([f"{file}: {error.strerror}; give {wanted}"])


if __name__ == "__main__":
    main()
