"""What steps come to: the figures of a line of metrics, and what looks wrong with them."""

import math
import statistics
from dataclasses import dataclass, field

PATIENCE = 10  # steps in a row whose loss or gradient may be no number
RECENT = 100  # steps that a loss is compared with
SPIKE = 6.0  # standard deviations above their mean


@dataclass
class Window:
    """What happened since the last line of metrics."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0

    skipped: int = 0  # steps that came to no number

    def add(self, loss: float, norm: float, tokens: int, seconds: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            self.losses.append(loss)
            self.norms.append(norm)
        else:
            self.skipped += 1
        self.tokens += tokens
        self.seconds += seconds

    def means(self) -> dict[str, float]:
        """Of its steps that were taken; tokens per second of training time alone."""
        means = {
            "loss": sum(self.losses) / len(self.losses) if self.losses else math.nan,
            "gradient_norm": sum(self.norms) / len(self.norms) if self.norms else math.nan,
            "tokens_per_second": round(self.tokens / self.seconds, 1),
        }
        return means | ({"skipped_steps": self.skipped} if self.skipped else {})


@dataclass
class Watch:
    """What looks wrong with steps, by those before them."""

    recent: list[float] = field(default_factory=list)  # losses, that a spike is known by
    lost: list[int] = field(default_factory=list)  # steps in a row, the last ones, that came to no number

    def spike(self, step: int, loss: float, norm: float) -> str | None:
        """Take note of a step. What is to be said of its loss, where that is far above those before."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.lost.append(step)
            return None
        recent, told = self.recent, None
        if len(recent) == RECENT:
            mean, deviation = statistics.fmean(recent), statistics.pstdev(recent)
            if loss > mean + SPIKE * deviation:
                usual = f"{mean:.3f} ± {deviation:.3f} in the {RECENT} steps before"
                told = f"step {step:,}: a loss of {loss:.3f}, against {usual}: a spike, harmless if it passes"
        self.recent, self.lost = [*recent, loss][-RECENT:], []
        return told
