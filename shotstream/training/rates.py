"""The learning rate over a run, as a share of its peak: warm-up, constant, and decay to zero at the end.

In a short run warm-up and decay are shortened: no step of any run has a rate below zero or above the peak.
"""


def rate_factor(step: int, *, num_steps: int, warmup_steps: int = 1, decay_steps: int = 1) -> float:
    """Returns the share of the peak rate at a step, in [0, 1]; 0 past the end.

    Args:
        step: the step, from 0.
        num_steps: number of steps of the run.
        warmup_steps: number of steps over which the rate rises from zero, the last of them at the peak; at
            most half of the run.
        decay_steps: number of steps at the end over which it falls to zero, which the step after the last
            would have; at most all of the run; 1: no decay.
    """
    warmup, decay = min(warmup_steps, max(1, num_steps // 2)), min(decay_steps, num_steps)
    risen, left = (step + 1) / warmup, (num_steps - step) / decay
    return min(1.0, risen) * min(1.0, max(0.0, left))
