"""Errors that the person at the keyboard can mend."""

from __future__ import annotations


class UserError(Exception):
    """Something outside the code is wrong: a file, a flag, a name, a server.

    The message names the thing and says what to do about it; the command line
    prints it without a traceback and exits with status 2.
    """
