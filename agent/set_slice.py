"""``aliquot set``: other numbers and caps for a container that runs."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click

from . import reach, sizes
from .sizes import format_size

if TYPE_CHECKING:
    from . import rpc_pb2

_HELP = """Change what the container CONTAINER has of its devices, while it runs.

CONTAINER is its id, the beginning of its id, or NAMESPACE/POD/NAME as `aliquot ps` shows it. What
is not named stays as it is. The node's agent changes all that is asked for or nothing, and programs
that run keep to it at once. It wants root to ask, whom the ceilings of its configuration do not
bind.

\b
Examples:
  aliquot set default/inference/server --cores 40 --priority 10
  aliquot set 3f1c --memory 6GiB
  aliquot set 3f1c --policy fixed-share --cores 25

A memory cap below what the container holds takes nothing away: it gets no more until it has freed
as much. The status is 2 when what is asked for makes no sense, 1 when it cannot be done."""


@click.command("set", help=_HELP)
@click.argument("container")
@click.option("--memory", metavar="SIZE", help="What it may hold of each device.")
@click.option("--cores", metavar="N", help="Percent of each device's time that are guaranteed.")
@click.option("--cores-max", metavar="N", help="Percent that it never passes.")
@click.option("--weight", metavar="N", help="Its part of what is spare, against others'.")
@click.option("--priority", metavar="N", help="A higher one takes the device at once.")
@click.option("--policy", metavar="NAME", help="The numbers that a name stands for.")
@click.option("--quiet", metavar="MS", help="How long it keeps a device that it leaves idle.")
@click.option("--floor", metavar="N", help="Percent that lower priorities are left.")
@click.option("--device", metavar="UUID", default="", help="Of this device only.")
@click.option("--json", "as_json", is_flag=True, help="Say what it has now as one JSON object.")
def set_command(
    container: str,
    memory: str | None,
    policy: str | None,
    device: str,
    as_json: bool,
    **numbers: str | None,
) -> None:
    """Ask the agent, and show what came of it."""
    from . import changes, rpc  # noqa: PLC0415 - after what was typed has been read

    asked = changes.Wish(
        container=container,
        device=device,
        memory=None if memory is None else sizes.parse_size(memory, "--memory"),
        policy=policy,
        numbers={
            key: parse(text, f"--{key}")
            for key, parse in changes.PARSERS.items()
            if (text := numbers[key.replace("-", "_")]) is not None
        },
    )
    wish = changes.checked(asked)
    with rpc.Client(reach.socket_path(os.environ)) as client:
        reply = client.change(wish)
    if as_json:
        click.echo(json.dumps(_as_json(reply), indent=2))
        return
    for part in reply.parts:
        click.echo(
            f"{reply.name}  {part.device_uuid}  {format_size(part.cap_bytes)}  "
            f"cores {part.cores} to {part.cores_max}%  weight {part.weight}  "
            f"priority {part.priority}  {reply.policy}"
        )
    for note in reply.notes:
        click.echo(f"aliquot: {note}", err=True)


def _as_json(reply: rpc_pb2.SetReply) -> dict[str, Any]:
    return {
        "key": reply.key,
        "name": reply.name,
        "policy": reply.policy,
        "group": reply.group,
        "quiet_ms": reply.quiet_ms,
        "floor": reply.floor,
        "devices": [
            {
                "uuid": part.device_uuid,
                "cap_bytes": part.cap_bytes,
                "cores": part.cores,
                "cores_max": part.cores_max,
                "weight": part.weight,
                "priority": part.priority,
            }
            for part in reply.parts
        ],
        "notes": list(reply.notes),
    }
