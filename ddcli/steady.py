"""What stands on a terminal and is drawn again and again, in its place."""

from rich.console import ConsoleDimensions
from rich.live import Live


class Steady(Live):
    """Drawn anew where its window changes: lines are wrapped then, and nobody knows how many there are."""

    _drawn_at: ConsoleDimensions | None = None

    def refresh(self) -> None:
        before, self._drawn_at = self._drawn_at, self.console.size
        if before not in (None, self._drawn_at):
            self.console.clear()
        super().refresh()
