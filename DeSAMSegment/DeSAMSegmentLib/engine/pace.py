"""How fast a job goes and how long it will still take, from the moments its units were finished."""

from __future__ import annotations

from collections import deque

WINDOW = 60.0  # seconds that the rate is measured over: other programs come and go


class Pace:
    """Call ``note`` whenever a unit is done; the faces put ``rate`` and ``seconds_left`` into words."""

    def __init__(self) -> None:
        self._noted: deque[tuple[float, int]] = deque()

    def note(self, now: float, done: int) -> None:
        """At ``now`` seconds, ``done`` units were finished."""
        self._noted.append((now, done))
        while len(self._noted) > 2 and now - self._noted[1][0] > WINDOW:
            self._noted.popleft()

    @property
    def rate(self) -> float:
        """Units per second; 0 while nobody can say."""
        if len(self._noted) < 2:
            return 0.0
        (before, first), (now, last) = self._noted[0], self._noted[-1]
        return (last - first) / (now - before) if now > before else 0.0

    def seconds_left(self, total: int) -> float | None:
        """Until all units are done; None while nobody can say."""
        return (total - self._noted[-1][1]) / self.rate if self.rate > 0 else None
