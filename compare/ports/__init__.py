"""Compare any two implementations of a network, and name the line at which they first differ. See docs/ports.md."""

from __future__ import annotations

from compare.ports.check import assert_same, check
from compare.ports.report import First, Report
from compare.ports.side import PortError

__all__ = ["First", "PortError", "Report", "assert_same", "check"]
