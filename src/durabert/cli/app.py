"""The command line: its commands, in the order of its help, and how its errors are told."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from durabert.cli import data, store
from durabert.cli.commands import models, operation, records, registry, runs, schedules, sweeps, training
from durabert.errors import DurabertError, SpecInvalid
from durabert.version import __version__

app = typer.Typer(
    name="durabert",
    help="Durable fine-tuning of BERT-family models on Temporal.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

for group in (training, models, sweeps, registry, runs, records, operation):
    app.add_typer(group.app)
app.add_typer(data.app, name="data")
app.add_typer(store.app, name="store")
app.add_typer(schedules.app, name="schedule")


def main() -> None:
    """Run the command line; every expected error is one sentence on stderr."""
    try:
        _require_unicode(sys.argv[1:])
        sys.exit(app(standalone_mode=False))
    except DurabertError as error:
        sys.stderr.write(f"durabert: {error}\n")
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("durabert: interrupted\n")
        sys.exit(130)
    except typer.TyperException as error:
        sys.stderr.write(f"durabert: {_usage_problem(error)}\n")
        sys.exit(error.exit_code)


def _require_unicode(arguments: list[str]) -> None:
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise SpecInvalid(
                f"the argument {argument!r} is not valid {sys.getfilesystemencoding()}"
            ) from None


def _usage_problem(error: typer.TyperException) -> str:
    said = error.format_message().rstrip(".?").replace(". Did", "; did")
    context = getattr(error, "ctx", None)
    help_of = f"; see '{context.command_path} --help'" if context else ""
    return said[:1].lower() + said[1:] + help_of


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"durabert {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    _version_wanted: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Durable fine-tuning of BERT-family models on Temporal."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)
