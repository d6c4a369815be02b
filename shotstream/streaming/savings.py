"""What a model gives up for memory. docs/performance.md says what each saves and costs."""

from dataclasses import dataclass

from shotstream.model.quantized import WeightFormat


@dataclass(frozen=True, kw_only=True, slots=True)
class Savings:
    """How memory is saved; the default saves nothing."""

    weights: WeightFormat | None = None
    """What the linear layers of the transformer's blocks are kept in; None: what they are computed in."""
    float8_cache: bool = False
    """Whether keys and values are kept in float8 (e4m3) between passes."""
    offload_text: bool = False
    """Whether Wan's text encoder stays in main memory and its layers visit the device one by one."""

    @property
    def suffix(self) -> str:
        """Tells the films made with it from those made without; empty where they are the same."""
        weights = [f"{self.weights} weights"] if self.weights else []
        cache = ["float8 cache"] if self.float8_cache else []
        return f" ({', '.join(weights + cache)})" if weights + cache else ""


NOTHING_SAVED = Savings()
