"""Errors for people: one line that says what, where, and what to do."""

from __future__ import annotations


class EditError(Exception):
    """A container cannot be changed as it must be; the text is one line."""
