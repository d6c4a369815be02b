"""Prometheus metrics of one server, in a registry of their own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_BUCKETS_S = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 5.0, 10.0)


class Metrics:
    """The counters, gauges and histograms."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.frames = Counter("shotstream_frames", "Frames generated.", registry=registry)
        self.chunks = Counter("shotstream_chunks", "Chunks generated.", registry=registry)
        self.takes = Counter(
            "shotstream_takes", "Takes that ended, by outcome.", ["outcome"], registry=registry
        )
        self.controls = Counter(
            "shotstream_controls", "Controls answered, by answer.", ["answer"], registry=registry
        )
        self.dropped = Counter(
            "shotstream_chunks_not_sent",
            "Chunks dropped because a viewer reads too slowly.",
            registry=registry,
        )
        self.stalls = Counter(
            "shotstream_stalls", "Playback stalls that viewers reported.", registry=registry
        )
        self.stories = Gauge("shotstream_open_stories", "Stories with viewers.", registry=registry)
        self.viewers = Gauge("shotstream_viewers", "Connected viewers.", registry=registry)
        self.bytes = Gauge("shotstream_story_bytes", "Size of all stories.", registry=registry)
        self.chunk_s = Histogram(
            "shotstream_chunk_seconds", "Time to generate a chunk.", buckets=_BUCKETS_S, registry=registry
        )
        self.first_chunk_s = Histogram(
            "shotstream_first_chunk_seconds",
            "Time from the start of a take to its first chunk.",
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self.cut_s = Histogram(
            "shotstream_cut_seconds",
            "Time from pressing Cut to the new shot on the screen, measured by viewers.",
            buckets=_BUCKETS_S,
            registry=registry,
        )

    def text(self) -> bytes:
        """Returns all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
