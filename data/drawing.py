"""What drawn scenes have in common: colours, ornaments, words, textures.

Everything follows from the random generators handed in.
"""

import cv2
import numpy as np

Image = np.ndarray  # (H, W, 3) uint8, BGR


def colour(rng: np.random.Generator, low: int = 40, high: int = 225) -> tuple[int, ...]:
    """A muted colour (BGR): brightness from [low, high), little saturation, any hue."""
    value = rng.integers(low, high)
    tint = 1 - rng.uniform(0.05, 0.45) * rng.random(3)
    return tuple(int(c) for c in value * tint)


def ornament(img: Image, rng: np.random.Generator, x: int, y: int, r: int) -> None:
    """A medallion nobody else has: a few polygons, rings and strokes within radius r."""
    kind = int(rng.integers(4))
    if kind == 0:
        cv2.circle(img, (x, y), r, colour(rng), -1, cv2.LINE_AA)
    elif kind == 1:
        cv2.rectangle(img, (x - r, y - r), (x + r, y + r), colour(rng), -1)
    for _ in range(int(rng.integers(2, 6))):
        stroke = int(rng.integers(3))
        points = (np.array([x, y]) + rng.normal(0, 0.5 * r, (int(rng.integers(3, 6)), 2))).astype(
            np.int32
        )
        if stroke == 0:
            cv2.fillPoly(img, [points], colour(rng, 0, 255), cv2.LINE_AA)
        elif stroke == 1:
            cv2.polylines(img, [points], bool(rng.integers(2)), colour(rng, 0, 255), 2, cv2.LINE_AA)
        else:
            centre = (int(points[0, 0]), int(points[0, 1]))
            cv2.circle(
                img,
                centre,
                int(rng.integers(2, max(r // 2, 3))),
                colour(rng, 0, 255),
                -1,
                cv2.LINE_AA,
            )


def sign(img: Image, rng: np.random.Generator, x: int, y: int) -> None:
    """A word on a board."""
    word = "".join(chr(int(c)) for c in rng.integers(65, 91, int(rng.integers(3, 7))))
    font = int(
        rng.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_TRIPLEX])
    )
    size = float(rng.uniform(0.5, 1.1))
    (w, h), _ = cv2.getTextSize(word, font, size, 2)
    if rng.random() < 0.7:
        cv2.rectangle(img, (x - 4, y - h - 5), (x + w + 4, y + 6), colour(rng), -1)
    cv2.putText(img, word, (x, y), font, size, colour(rng, 0, 255), 2, cv2.LINE_AA)


def pyramid(texture: np.ndarray, levels: int = 4) -> tuple[np.ndarray, ...]:
    pyramid = [texture]
    for _ in range(levels - 1):
        pyramid.append(cv2.pyrDown(pyramid[-1]))
    return tuple(pyramid)


def area(corners: np.ndarray) -> float:
    """Signed area of a quadrilateral (4, 2); negative when it is seen from behind."""
    x, y = corners.T
    return float(0.5 * np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))


def texture(base: tuple[int, ...], noise: np.ndarray, w: int, h: int) -> Image:
    """A surface of one colour with the coarse grid `noise` (a, b, 1) spread over it."""
    spread = cv2.resize(noise, (w, h), interpolation=cv2.INTER_CUBIC)[..., None]
    return np.clip(spread + np.array(base), 0, 255).astype(np.uint8)


def premultiplied(picture: np.ndarray) -> np.ndarray:
    """(H, W, 4) BGR and coverage -> the same with colours times coverage, as blending needs it."""
    blue, green, red, cover = cv2.split(picture)
    colours = [cv2.multiply(plane, cover, scale=1 / 255) for plane in (blue, green, red)]
    return cv2.merge([*colours, cover])
