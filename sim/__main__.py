"""``python -m aliquot.sim``: the ``aliquot sim`` command by itself."""

from __future__ import annotations

from .cli import sim_command

if __name__ == "__main__":
    sim_command(prog_name="python -m aliquot.sim")
