"""Training curves: small line charts as SVG for a page, one line of blocks for Markdown."""

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from utils.report_runs import Curve

WIDTH, HEIGHT = 320, 140  # of a chart, in its own units
LEFT, RIGHT, TOP, BOTTOM = 44, 6, 8, 20  # room for numbers
POINTS = 240  # of a line; longer curves are averaged in bins
DOTTED = 30  # curves of up to so many points show them
BLOCKS = "▁▂▃▄▅▆▇█"
SPARKS = 24  # characters of a line of blocks


def reduce_curve(curve: Curve, points: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of the finite points, averaged in at most `points` bins of equal count."""
    steps, values = np.asarray(curve.steps, float), np.asarray(curve.values, float)
    kept = np.isfinite(steps) & np.isfinite(values)
    steps, values = steps[kept], values[kept]
    if len(steps) <= points:
        return steps, values
    bins = np.arange(len(steps)) * points // len(steps)
    counts = np.bincount(bins)
    return np.bincount(bins, steps) / counts, np.bincount(bins, values) / counts


def number(value: float) -> str:
    """Short form for an axis: 0.693, 46.5, 12000, 1e-05."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return f"{value:.0e}"


def chart(curve: Curve) -> str:
    """One chart with its name and last value: a figure; empty for a curve without a number."""
    steps, values = reduce_curve(curve)
    if len(steps) == 0:
        return ""
    low, high = float(values.min()), float(values.max())
    first, last = float(steps.min()), float(steps.max())
    margin = (high - low) * 0.04 or max(abs(high) * 0.05, 1e-6)
    x = LEFT + (steps - first) / ((last - first) or 1) * (WIDTH - LEFT - RIGHT)
    span = high - low + 2 * margin
    y = TOP + (high + margin - values) / span * (HEIGHT - TOP - BOTTOM)
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    dots = ""
    if len(steps) <= DOTTED:
        dots = "".join(
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.6"/>' for a, b in zip(x, y, strict=True)
        )
    top, bottom = (TOP + (high + margin - v) / span * (HEIGHT - TOP - BOTTOM) for v in (high, low))
    axes = (
        f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'
        f'<text x="{LEFT - 5}" y="{top + 4:.1f}" text-anchor="end">{number(high)}</text>'
        f'<text x="{LEFT - 5}" y="{bottom + 4:.1f}" text-anchor="end">{number(low)}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 5}">{number(first)}</text>'
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 5}" text-anchor="end">{number(last)}</text>'
    )
    name = escape(curve.name)
    label = f"{name}, {len(curve.steps)} values from {number(low)} to {number(high)}"
    return (
        f'<figure class="curve"><figcaption><b>{name}</b> last {number(curve.values[-1])}'
        f'</figcaption>\n<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f'{axes}<polyline points="{line}"/>{dots}</svg></figure>'
    )


def sparkline(curve: Curve) -> str:
    """The course as a line of up to 24 blocks, low to high."""
    _, values = reduce_curve(curve, SPARKS)
    if len(values) == 0:
        return ""
    spread = float(np.ptp(values)) or 1.0
    levels = np.floor((values - values.min()) / spread * (len(BLOCKS) - 1) + 0.5).astype(int)
    return "".join(BLOCKS[level] for level in levels)


def sort_curves(curves: Sequence[Curve]) -> list[Curve]:
    """Loss first, then what is validated, the rest, the learning rate last."""
    order = {"train.loss": 0, "train.lr": 3}

    def place(curve: Curve) -> tuple[int, str]:
        return order.get(curve.name, 1 if curve.name.startswith("val.") else 2), curve.name

    finite = [curve for curve in curves if any(math.isfinite(value) for value in curve.values)]
    return sorted(finite, key=place)
