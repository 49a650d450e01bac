"""Parts of a results page: ranked lists, tables, match pictures; the choice of lists to show."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.results import Row, table_cells

LABELS = ("easy", "hard", "junk", "negative")  # of the ground truth; easy and hard are positives


@dataclass(frozen=True)
class Hit:
    """One gallery image of a ranked list. `label`: one of LABELS, None without ground truth."""

    path: str | Path
    name: str
    label: str | None = None
    score: float | None = None

    def __post_init__(self) -> None:
        if self.label is not None and self.label not in LABELS:
            raise ValueError(f"{self.name}: label is {self.label!r}, not one of {LABELS} or None")


@dataclass(frozen=True)
class RankedList:
    """One query with its ranking before and after reranking, nearest first.

    The page shows the first ten of each; from what `before` holds beyond them it tells where an
    image of `after` came from. `query_box`: (x1, y1, x2, y2) in pixels, None for the whole image.
    `ap_before`, `ap_after`: fractions; None or NaN without positives. `after` empty: not reranked.
    """

    query_path: str | Path
    query_box: Sequence[float] | None
    before: Sequence[Hit]
    after: Sequence[Hit] = ()
    ap_before: float | None = None
    ap_after: float | None = None

    @property
    def name(self) -> str:
        return Path(self.query_path).stem

    @property
    def change(self) -> float | None:
        """AP after minus before; None when either is not there."""
        if self.ap_before is None or self.ap_after is None:
            return None
        change = self.ap_after - self.ap_before
        return None if math.isnan(change) else change


@dataclass(frozen=True)
class Link:
    """A cell that leads to a file, by its address relative to the page."""

    text: str
    target: str


@dataclass(frozen=True)
class Table:
    """Cells of text below a header; numbers are aligned to the right."""

    title: str
    header: Sequence[str]
    cells: Sequence[Sequence[str | Link]]
    note: str = ""
    folded: bool = False  # shown when it is asked for

    def __post_init__(self) -> None:
        for line in self.cells:
            if len(line) != len(self.header):
                raise ValueError(
                    f"table {self.title!r}: {len(line)} cells in a line, not {self.header}"
                )


@dataclass(frozen=True)
class MatchPicture:
    """A picture of matches, as `report_images.draw_matches` makes it: (H, W, 3) uint8, RGB."""

    title: str
    image: np.ndarray = field(repr=False)
    caption: str = ""


def results_table(title: str, rows: Sequence[Row], note: str = "") -> Table:
    """The rows of a results table as a table of the page."""
    header, cells = table_cells(rows)
    return Table(title, header, cells, note)


@dataclass(frozen=True)
class Section:
    """Some of the ranked lists under a heading."""

    title: str
    lists: Sequence[RankedList]


def choose_lists(lists: Sequence[RankedList], n: int, seed: int = 0) -> list[Section]:
    """At most n lists: the most improved, the most worsened, the rest drawn at random.

    Without AP there is nothing to sort by: the first n in their order.
    """
    if all(entry.change is None for entry in lists):
        shown = list(lists[:n])
        more = f" (first {len(shown)} of {len(lists)})" if len(shown) < len(lists) else ""
        return [Section(f"Ranked lists{more}", shown)] if shown else []
    changes = np.array([math.nan if entry.change is None else entry.change for entry in lists])
    order = np.argsort(-changes, kind="stable")  # NaN goes to the end
    improved = [int(i) for i in order if changes[i] > 0]
    worse = [int(i) for i in order[::-1] if changes[i] < 0]
    best, worst = improved[: max(1, n // 3)], worse[: max(1, n // 3)]
    others = sorted(set(range(len(lists))) - set(best) - set(worst))
    n_random = min(max(0, n - len(best) - len(worst)), len(others))
    drawn = np.random.default_rng(seed).permutation(others)[:n_random].tolist()
    groups = [
        (f"Most improved ({len(best)} of {len(improved)} that gained)", best),
        (f"Most worsened ({len(worst)} of {len(worse)} that lost)", worst),
        (f"Drawn at random ({n_random} of the other {len(others)})", sorted(drawn)),
    ]
    return [Section(title, [lists[i] for i in picks]) for title, picks in groups if picks]
