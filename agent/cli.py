"""The ``aliquot`` command: what it can do, and how it fails."""

from __future__ import annotations

import importlib
import os
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Final

import click

from .errors import AliquotError

if TYPE_CHECKING:
    from collections.abc import Sequence

# Name: where the command is, and what the list of commands says of it. Nothing is imported before
# it is asked for.
_COMMANDS: Final = {
    "run": ("aliquot.agent.run:run_command", "Run a program with a cap on memory and time."),
    "devices": (
        "aliquot.agent.show_devices:devices_command",
        "Show devices and what of them is allocated.",
    ),
    "ps": ("aliquot.agent.ps:ps_command", "Show slices, their processes and what they hold."),
    "set": ("aliquot.agent.set_slice:set_command", "Change what a running container has."),
    "top": ("aliquot.agent.top:top_command", "Show who has which device, again and again."),
    "install": ("aliquot.agent.install:install_command", "Register with a container runtime."),
    "doctor": ("aliquot.agent.doctor:doctor_command", "Say what is wrong with this node."),
    "agent": ("aliquot.agent.daemon:agent_command", "Run the node agent."),
    "sim": ("aliquot.sim.cli:sim_command", "Run a program on a simulated node."),
}


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _COMMANDS.items()])


def _print_version(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"aliquot {metadata.version('aliquot')}")
        context.exit()


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def aliquot() -> None:
    """Share an accelerator: each program gets a part of its memory and no more."""


def main(arguments: Sequence[str] | None = None) -> int:  # noqa: PLR0911 - one a kind of end
    """Run the command; answers its exit status. Errors are one line on standard error."""
    try:
        result = aliquot.main(
            args=None if arguments is None else list(arguments),
            prog_name="aliquot",
            standalone_mode=False,
        )
    except click.ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            # Nothing was asked for: click 8.2 and newer raise the help itself.
            error.show()
            return error.exit_code
        return _fail(_describe(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except AliquotError as error:
        return [_fail(line, error.status) for line in error.lines][-1]
    except BrokenPipeError:
        # Whoever read our output has gone; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 1)
    return result if isinstance(result, int) else 0


def _describe(error: click.ClickException) -> str:
    """Return click's message as one line, with where to look for more."""
    text = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    path = context.command_path if isinstance(context, click.Context) else "aliquot"
    return f"{text[:1].lower()}{text[1:]}: see {path} --help"


def _fail(text: str, status: int) -> int:
    # What was typed may be in it, and one line it must stay.
    line = "".join(letter if letter.isprintable() else "?" for letter in text)
    click.echo(f"aliquot: {line}", err=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
