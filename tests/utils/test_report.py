"""The page of results: what it shows and that it needs nothing but itself; match pictures."""

import base64
import io
import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.report import (
    Hit,
    MatchPicture,
    RankedList,
    Table,
    draw_matches,
    results_table,
    write_page,
)
from utils.report_images import MAX_LINES, THUMBNAIL_SIDE, Thumbnails, load_thumbnail
from utils.report_parts import choose_lists
from utils.results import Row

NASTY = "<b>\"&'Caf\N{LATIN SMALL LETTER E WITH ACUTE}"  # a name that breaks unescaped HTML


class Page(HTMLParser):
    """Tags, classes, texts and addresses of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())

    def all(self, tag: str, css_class: str = "") -> list[dict[str, str]]:
        """Attributes of the tags with that name and (among its classes) that class."""
        found = (attributes for name, attributes in self.tags if name == tag)
        return [a for a in found if not css_class or css_class in a.get("class", "").split()]

    def addresses(self) -> list[str]:
        """Everything that a browser would load or follow."""
        names = ("src", "href", "srcset", "poster", "data", "action")
        return [a[name] for _, a in self.tags for name in names if name in a]


def make_photo(
    folder: Path, name: str, colour: str = "teal", size: tuple[int, int] = (400, 300)
) -> Path:
    path = folder / f"{name}.jpg"
    Image.new("RGB", size, colour).save(path)
    return path


def make_list(folder: Path, name: str, before: float | None, after: float | None) -> RankedList:
    """A query with three images: reranking brings the third to the front."""
    query = make_photo(folder, name)
    hits = [Hit(make_photo(folder, f"g{k}"), f"g{k}", label) for k, label in enumerate(LABELLED)]
    return RankedList(query, (50, 40, 300, 200), hits, [hits[2], *hits[:2], hits[3]], before, after)


LABELLED = ("negative", "junk", "easy", "hard")


@pytest.fixture
def full_page(tmp_path: Path) -> Page:
    rows = [Row("mAP hard", 24.25, 13.3, 3.0, "mini, top_k 100", "own", (20.0, 28.5))]
    pixels = np.full((60, 80, 3), 128, np.uint8)
    path = write_page(
        tmp_path / "out/page.html",
        f"Title {NASTY}",
        {"Set": f"mini {NASTY}"},
        [results_table("Rows", rows, "a note"), Table("Free", ["a", "b"], [["1", NASTY]])],
        [make_list(tmp_path, "worse", 0.9, 0.4), make_list(tmp_path, "better", 0.1, 0.7)],
        [MatchPicture(f"Pair {NASTY}", pixels, "caption")],
        notes=[f"Note {NASTY}"],
        ap_name="AP (Hard)",
    )
    return Page(path)


def test_page_asks_for_nothing_from_anywhere(full_page: Page) -> None:
    assert full_page.addresses()
    assert all(address.startswith(("data:", "#")) for address in full_page.addresses())
    assert "url(" not in full_page.source
    assert "@import" not in full_page.source
    assert "<script" not in full_page.source


def test_links_of_the_page_lead_to_its_sections(full_page: Page) -> None:
    anchors = {attributes["id"] for attributes in full_page.all("h2")}
    links = {attributes["href"][1:] for attributes in full_page.all("a")}
    assert links == anchors
    assert len(anchors) == len(full_page.all("h2")) >= 6


def test_texts_are_escaped(full_page: Page) -> None:
    assert "<b>\"&'" not in full_page.source
    for text in (f"Title {NASTY}", f"mini {NASTY}", f"Note {NASTY}", f"Pair {NASTY}", NASTY):
        assert text in full_page.texts


def test_rows_are_shown_with_expected_difference_and_interval(full_page: Page) -> None:
    start = full_page.texts.index("mAP hard")
    cells = [text for text in full_page.texts[start:] if text][:9]
    interval = "20.0 to 28.5"
    assert cells == (
        [
            "mAP hard",
            "24.25",
            "13.30",
            "+10.95",
            "3.00",
            "OUTSIDE",
            interval,
            "own",
            "mini, top_k 100",
        ]
    )


def test_labels_are_told_by_class_sign_and_alt_text(full_page: Page) -> None:
    # two queries, before and after, four images each
    assert len(full_page.all("figure", "tile")) == 16
    assert len(full_page.all("figure", "positive")) == 8
    assert len(full_page.all("figure", "negative")) == 4
    assert len(full_page.all("figure", "junk")) == 4
    assert full_page.texts.count("\N{CHECK MARK}") == 8 + 1  # the legend has one
    assert full_page.texts.count("\N{MULTIPLICATION X}") == 4 + 1
    alts = [attributes["alt"] for attributes in full_page.all("img")]
    assert all(alts)
    assert "Before reranking, rank 3: g2, easy" in alts
    assert "After reranking, rank 1: g2, easy" in alts
    assert "query better with its box" in alts


def test_ap_and_former_rank_are_shown(full_page: Page) -> None:
    texts = " ".join(full_page.texts)
    assert "AP (Hard) 10.0 \N{RIGHTWARDS ARROW} 70.0 (+60.0)" in texts
    assert "AP (Hard) 90.0 \N{RIGHTWARDS ARROW} 40.0 (-50.0)" in texts
    assert full_page.texts.count("was 3") == 2  # g2 came from rank 3 in both lists
    assert full_page.texts.index("better") < full_page.texts.index("worse")


def test_chart_has_one_bar_for_every_query(full_page: Page) -> None:
    assert len(full_page.all("rect", "up")) == len(full_page.all("rect", "down")) == 1
    assert "1 queries gained, 1 lost, 0 stayed" in full_page.source


def test_photographs_without_ground_truth_have_neutral_borders(tmp_path: Path) -> None:
    photo = make_photo(tmp_path, "mine")
    hits = [Hit(photo, f"photo {k}", None, 0.5) for k in range(12)]
    page = Page(write_page(tmp_path / "p.html", "t", {}, lists=[RankedList(photo, None, hits)]))
    assert len(page.all("figure", "neutral")) == 10, "the first ten are shown"
    assert not page.all("span", "key"), "no legend"
    assert not page.all("svg"), "no chart"
    assert "After reranking" not in page.source
    assert page.texts.count("photo 0") == 1


def test_broken_image_becomes_a_tile_with_its_name(tmp_path: Path) -> None:
    broken = tmp_path / "a<b>.jpg"
    broken.write_bytes(b"\xff\xd8 not an image")
    good = make_photo(tmp_path, "good")
    truncated = tmp_path / "half.jpg"
    make_noise(400, 300).save(truncated)
    truncated.write_bytes(truncated.read_bytes()[:5000])
    hits = [Hit(path, path.name) for path in (broken, truncated, tmp_path / "gone.jpg", good)]
    page = Page(write_page(tmp_path / "p.html", "t", {}, lists=[RankedList(broken, None, hits)]))
    assert len(page.all("span", "broken")) == 4
    assert len(page.all("img")) == 1
    assert {"a<b>.jpg", "half.jpg", "gone.jpg"} <= set(page.texts)


def test_every_image_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []

    def counting(key: tuple[str, tuple[float, ...] | None]) -> str:
        reads.append(key[0])
        return "data:,"

    monkeypatch.setattr(Thumbnails, "_make", staticmethod(counting))
    lists = [make_list(tmp_path, f"q{k}", 0.1, 0.2) for k in range(3)]
    write_page(tmp_path / "p.html", "t", {}, lists=lists)
    assert sorted(reads) == sorted(str(tmp_path / f"{name}.jpg") for name in NAMES)


NAMES = ("q0", "q1", "q2", "g0", "g1", "g2", "g3")


def test_lists_are_chosen_by_change(tmp_path: Path) -> None:
    changes = [0.0, 0.3, -0.2, 0.1, math.nan, -0.4, 0.0, 0.2, 0.5, 0.0]
    lists = [RankedList(f"q{k}.jpg", None, [], [], 0.4, 0.4 + c) for k, c in enumerate(changes)]
    best, worst, drawn = choose_lists(lists, n=6)
    assert [entry.name for entry in best.lists] == ["q8", "q1"]
    assert best.title == "Most improved (2 of 4 that gained)"
    assert [entry.name for entry in worst.lists] == ["q5", "q2"]
    shown = [entry.name for section in (best, worst, drawn) for entry in section.lists]
    assert len(set(shown)) == len(shown) == 6
    assert choose_lists(lists, n=6) == [best, worst, drawn], "the draw is fixed by the seed"


def test_lists_without_ap_come_in_their_order() -> None:
    lists = [RankedList(f"q{k}.jpg", None, []) for k in range(5)]
    (section,) = choose_lists(lists, n=3)
    assert [entry.name for entry in section.lists] == ["q0", "q1", "q2"]
    assert section.title == "Ranked lists (first 3 of 5)"
    assert choose_lists([], n=3) == []


def test_unknown_label_and_ragged_table_are_refused() -> None:
    with pytest.raises(ValueError, match="label is 'good'"):
        Hit("a.jpg", "a", "good")
    with pytest.raises(ValueError, match="table 'T'"):
        Table("T", ["a", "b"], [["1"]])


def make_noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_thumbnail_is_small_upright_and_framed(tmp_path: Path) -> None:
    # stored 800 x 400 and to be turned by a quarter: upright it is 400 wide and 800 high
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (800, 400), (200, 60, 60)).save(path, exif=exif)
    plain = load_thumbnail(path)
    assert plain.size == (THUMBNAIL_SIDE // 2, THUMBNAIL_SIDE)
    framed = load_thumbnail(path, (100, 200, 300, 600))
    # scale 224 / 800 = 0.28: the frame's left side at x = 28, its top at y = 56
    difference = np.abs(np.asarray(framed, int) - np.asarray(plain, int)).sum(axis=2) > 60
    rows, columns = np.flatnonzero(difference.any(1)), np.flatnonzero(difference.any(0))
    assert (columns[0], columns[-1]) == (pytest.approx(28, abs=1), pytest.approx(84, abs=1))
    assert (rows[0], rows[-1]) == (pytest.approx(56, abs=1), pytest.approx(168, abs=1))
    assert not difference[80:140, 40:72].any(), "the inside is untouched"


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "CMYK", "1"])
def test_images_of_every_mode_are_shown(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.new(mode, (50, 40)).save(path)
    uri = Thumbnails().uri(path)
    assert uri is not None
    image = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (50, 40))


def test_match_lines_join_their_points() -> None:
    a, b = np.zeros((100, 200, 3), np.uint8), np.zeros((50, 100, 3), np.uint8)
    picture = draw_matches(a, b, np.array([[100, 50]]), np.array([[50, 25]]), np.array([1.0]))
    # both are twice as wide as high: 480 high would be 960 wide each, so the width limits them
    height = picture.shape[0]
    assert picture.shape[1] == pytest.approx(4 * height + 8, abs=2)
    assert picture.shape[1] <= 1400
    lit = picture.max(axis=2) > 0
    lit[:, 2 * height : 2 * height + 8] = False  # the white gap
    rows, columns = np.nonzero(lit)
    assert abs(rows - height / 2).max() <= 6, "a level line through both centres"
    assert columns.min() == pytest.approx(height, abs=6)
    assert columns.max() == pytest.approx(3 * height + 8, abs=6)


def test_stronger_matches_are_brighter() -> None:
    black = np.zeros((480, 480, 3), np.uint8)
    ys = np.array([100, 200, 300])
    points = np.stack([np.full(3, 240), ys], axis=1)
    picture = draw_matches(black, black, points, points, np.array([0.1, 0.9, 0.5]))
    brightness = [int(picture[y - 1 : y + 2, 400].sum(axis=1).max()) for y in ys]
    assert brightness[1] > brightness[2] > brightness[0] > 0


def test_only_the_strongest_matches_are_drawn() -> None:
    black = np.zeros((480, 480, 3), np.uint8)
    n = MAX_LINES + 30
    points = np.stack([np.full(n, 240), np.where(np.arange(n) < 30, 50, 400)], axis=1)
    picture = draw_matches(black, black, points, points, np.arange(n, dtype=float))
    assert not picture[30:70, :480].any(), "the 30 weakest lie at y = 50"
    assert picture[390:410, :480].any()
    assert draw_matches(black, black, points[:0], points[:0], np.zeros(0)).shape[0] == 480


def test_match_input_is_checked() -> None:
    image, points = np.zeros((10, 10, 3), np.uint8), np.zeros((4, 2))
    with pytest.raises(ValueError, match="want \\(3, 2\\)"):
        draw_matches(image, image, points, points, np.zeros(3))
    with pytest.raises(ValueError, match="expected uint8"):
        draw_matches(image.astype(np.float32), image, points, points, np.zeros(4))


@pytest.mark.data
def test_page_of_real_photographs(reference_data: Path, tmp_path: Path) -> None:
    """Photographs of many sizes: small copies, a page well below 15 MB, nothing unreadable."""
    photos = sorted(reference_data.glob("real/*/images/*.jpg"))
    assert len(photos) > 50
    lists = [
        RankedList(query, (10, 10, 200, 150), [Hit(p, p.stem) for p in photos[k : k + 10]])
        for k, query in enumerate(photos[:24])
    ]
    path = write_page(tmp_path / "page.html", "Photographs", {}, lists=lists, n_lists=24)
    page = Page(path)
    assert not page.all("span", "broken")
    assert len(page.all("img")) == 24 * 11
    assert path.stat().st_size < 15e6
