"""Errors for people: what failed, where, what to do, in one line."""

from __future__ import annotations


class AliquotError(Exception):
    """Something that a person has to mend; its text is one line. ``status`` ends the command."""

    status = 1

    @property
    def lines(self) -> tuple[str, ...]:
        """What to print, a line each: one, where the class does not say otherwise."""
        return (str(self),)


class BadRequestError(AliquotError):
    """What was asked for makes no sense: malformed, impossible or contradictory."""

    status = 2


class NoNamespaceError(AliquotError):
    """The kernel, or whoever confines us, does not let us make the namespaces of a slice."""
