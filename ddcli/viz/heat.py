"""The noise as matrices, and what they converge to."""

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.image import AxesImage
from rich.cells import cell_len, set_cell_size

from .paper import FAINT, LEFT, Page, drawable, width_of
from .parts import Chain, Story, spread

MATRICES = 3  # times at which matrices are drawn


@dataclass(frozen=True)
class Strip:
    """The matrices of one process: single steps on the left; products, and their limit, on the right."""

    story: Story
    name: str
    chain: Chain

    height = 3.2
    head = 0.85
    side = 1.58
    gap = 0.2

    def draw(self, page: Page, top: float) -> None:
        chain, left = self.chain, LEFT
        picked = spread(range(len(chain.times)), MATRICES)
        starts = [0.0, *chain.times]
        page.write(left, top + 0.15, self.name, 9, weight="bold")
        if chain.lumped:
            note = f"others: {chain.lumped:,} symbols together"
            page.write(left + width_of(self.name, 9) + 0.15, top + 0.15, note, 7, FAINT)
        for heading, matrices, begins in (
            ("one step, Qₜ", chain.steps, starts),
            ("so far, Q₁:ₜ → π", chain.products, [0.0] * len(starts)),
        ):
            page.write(left, top + 0.42, heading, 8)
            for k in picked:
                axes = page.axes(left, top + self.head, self.side, self.side)
                image = _heat(axes, matrices[k])
                axes.set_title(f"{begins[k]:.2f} → {chain.times[k]:.2f}", size=7, color=FAINT)
                self._label(axes, first=k == picked[0])
                left += self.side + self.gap
            left += 0.4
        self._limit(page, left - 0.4, top)
        bar = page.axes(left + 0.05, top + self.head, 0.1, self.side)
        page.figure.colorbar(image, cax=bar, ticks=[0, 0.05, 0.2, 0.5, 1], format="{x:g}")
        bar.tick_params(labelsize=6, length=2)
        bar.set_title("p", size=6, color=FAINT, loc="left")

    def _limit(self, page: Page, left: float, top: float) -> None:
        """Pure noise as one more column: what every column of the products comes to be."""
        axes = page.axes(left, top + self.head, 0.12, self.side)
        _heat(axes, [[p] for p in self.chain.limit])
        axes.set_title("π", size=8, color=FAINT)
        axes.spines[:].set_visible(False)
        axes.set(xticks=[], yticks=[])

    def _symbols(self) -> list[str]:
        names = [drawable(self.story.pieces[id]).replace(" ", "␣") for id in self.chain.states]
        return [set_cell_size(n, 6).rstrip() for n in names] + ["others"] * (self.chain.lumped > 0)

    def _label(self, axes: Axes, first: bool) -> None:
        symbols = self._symbols()
        size = min(7.0, self.side * 72 / len(symbols))
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, pad=1.5, labelsize=size)
        axes.set_xticks(range(len(symbols)), symbols)
        for label, symbol in zip(axes.get_xticklabels(), symbols, strict=True):
            label.set_rotation(90 * (cell_len(symbol) > 1))  # a single sign stays upright
        axes.set_yticks(range(len(symbols)), symbols if first else [])
        axes.set_xlabel("from", size=7, labelpad=3)
        if first:
            axes.set_ylabel("to", size=7, labelpad=5)


def _heat(axes: Axes, matrix: list[list[float]]) -> AxesImage:
    """Small probabilities stay visible: colours go by the root."""
    return axes.imshow(matrix, norm=PowerNorm(0.5, 0, 1), cmap="Blues", interpolation="none", aspect="auto")
