"""How fast a training goes, by the audio it has been through."""

import time


class Pace:
    """How much audio is trained on in a second of wall clock, waiting for data included."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin anew, after something that is no training."""
        self.seconds, self.started = 0.0, time.perf_counter()

    def add(self, seconds: float) -> None:
        """Note the audio of one step."""
        self.seconds += seconds

    def lap(self) -> float:
        """Return the audio seconds per second since the last lap."""
        pace = self.seconds / (time.perf_counter() - self.started)
        self.restart()
        return pace
