"""Where the agent's tools find it, and whether it is there. Nothing large is imported for that."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from .errors import AliquotError, BadRequestError

TOOLS_SOCKET: Final = "agent.sock"

_CONNECT_SECONDS: Final = 5.0


class AgentError(AliquotError):
    """The agent does not answer as it should."""


class AgentAbsentError(AgentError):
    """No agent runs on this node, or not where it was looked for."""


class AgentClosedError(AgentError):
    """The agent is another user's to ask."""


def socket_path(environment: Mapping[str, str]) -> Path:
    """Return where the agent listens for tools. Raises BadRequestError.

    Unlike slices of ``aliquot run``, which every user has in folders of their own, the agent is
    one for the node: where ALIQUOT_RUNTIME_DIR does not say it, the node's configuration does, if
    it may be read and is one.
    """
    own = environment.get("ALIQUOT_RUNTIME_DIR")
    if own and not Path(own).is_absolute():
        raise BadRequestError(f"ALIQUOT_RUNTIME_DIR: '{own}' is not an absolute path")
    return (Path(own) if own else _configured()) / TOOLS_SOCKET


def _configured() -> Path:
    from . import config  # noqa: PLC0415 - not where the environment says it

    try:
        return config.load(None, {}).runtime_dir
    except config.ConfigError:
        # The agent does not run by it either, or it is root's to read.
        return config.Config().runtime_dir


def is_there(path: Path) -> bool:
    """Say whether there is anything to connect to: a look that costs nothing."""
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


def check(path: Path) -> None:
    """See that somebody listens on the socket ``path`` and lets us in.

    Raises AgentAbsentError, AgentClosedError, and AgentError for whatever else.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        trial.settimeout(_CONNECT_SECONDS)
        try:
            trial.connect(os.fspath(path))
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
            raise AgentAbsentError(
                f"the agent does not answer on {path}: {error.strerror}: "
                "start it (systemctl start aliquot-agent)"
            ) from error
        except PermissionError as error:
            raise AgentClosedError(
                f"{path} is root's: ask the agent as root (sudo aliquot …)"
            ) from error
        except TimeoutError as error:
            raise AgentError(f"the agent does not answer on {path}: {LOOK_AT_ITS_LOG}") from error
        except OSError as error:
            # A path that is too long has no errno.
            raise AgentError(f"{path} cannot be connected to: {error.strerror or error}") from error


LOOK_AT_ITS_LOG: Final = "see its log (journalctl -u aliquot-agent)"
