"""Counts of what a server does, in the text format of Prometheus."""

from collections import Counter, defaultdict
from collections.abc import Mapping

BOUNDS_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
PREFIX = "hybrid_pruning"


class Counters:
    """Requests by path and status, and their durations by path; changed in the event loop alone."""

    def __init__(self) -> None:
        self.requests = Counter[tuple[str, int]]()
        self.seconds = defaultdict[str, float](float)
        self._durations = defaultdict[str, Counter[float]](Counter)
        self.audio_seconds = 0.0
        self.running = self.streams = 0

    def count(self, path: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self.requests[path, status] += 1
        self.seconds[path] += seconds
        self._durations[path].update(bound for bound in BOUNDS_SECONDS if seconds <= bound)

    def text(self, gauges: Mapping[str, float]) -> str:
        """Return all counts, and further values by name, in the text format."""
        lines = [f"# TYPE {PREFIX}_requests_total counter"]
        lines += [
            f'{PREFIX}_requests_total{{path="{path}",status="{status}"}} {count}'
            for (path, status), count in sorted(self.requests.items())
        ]
        name = f"{PREFIX}_request_seconds"
        lines.append(f"# TYPE {name} histogram")
        for path, durations in sorted(self._durations.items()):
            total = sum(count for (of, _), count in self.requests.items() if of == path)
            lines += [f'{name}_bucket{{path="{path}",le="{bound:g}"}} {durations[bound]}' for bound in BOUNDS_SECONDS]
            lines.append(f'{name}_bucket{{path="{path}",le="+Inf"}} {total}')
            lines += [f'{name}_sum{{path="{path}"}} {self.seconds[path]:.6f}', f'{name}_count{{path="{path}"}} {total}']
        own = {"audio_seconds_total": self.audio_seconds, "requests_running": self.running}
        own["streams_open"] = self.streams
        for key, value in {**own, **gauges}.items():
            kind = "counter" if key.endswith("_total") else "gauge"
            lines += [f"# TYPE {PREFIX}_{key} {kind}", f"{PREFIX}_{key} {value:g}"]
        return "\n".join(lines) + "\n"
