"""What Prometheus is told; a registry of its own, so that several studios may live in one process."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_BUCKETS_S = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 5.0, 10.0)


class Metrics:
    """The studio's counters."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.frames = Counter("shotstream_frames", "Frames made.", registry=registry)
        self.chunks = Counter("shotstream_chunks", "Chunks made.", registry=registry)
        self.takes = Counter("shotstream_takes", "Takes that ended.", ["outcome"], registry=registry)
        self.controls = Counter("shotstream_controls", "Controls answered.", ["answer"], registry=registry)
        self.dropped = Counter("shotstream_chunks_not_sent", "To viewers who read slowly.", registry=registry)
        self.stalls = Counter("shotstream_stalls", "Standstills that pages reported.", registry=registry)
        self.stories = Gauge("shotstream_open_stories", "Stories with viewers.", registry=registry)
        self.viewers = Gauge("shotstream_viewers", "Connected pages.", registry=registry)
        self.bytes = Gauge("shotstream_story_bytes", "Of all stories' files.", registry=registry)
        self.chunk_s = Histogram(
            "shotstream_chunk_seconds", "To make a chunk.", buckets=_BUCKETS_S, registry=registry
        )
        self.first_chunk_s = Histogram(
            "shotstream_first_chunk_seconds",
            "From beginning a take to its first chunk.",
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self.cut_s = Histogram(
            "shotstream_cut_seconds",
            "From pressing Cut to the new shot on the screen, as pages measured it.",
            buckets=_BUCKETS_S,
            registry=registry,
        )

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
