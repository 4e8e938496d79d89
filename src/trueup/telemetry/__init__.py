"""What the running system says of itself: logs, metrics, traces.

Only logs are imported here, so that the command line starts at once; doors take
``trueup.telemetry.requests``, where the three meet.
"""

from __future__ import annotations

from trueup.telemetry.logs import configure, log

__all__ = ["configure", "log"]
