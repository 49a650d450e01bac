"""The generated product set, in the layout of Stanford Online Products."""

import argparse
import hashlib
import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from data.drawn_sets import draw_all, draw_sheet, make_side, write_picture
from data.product_parts import Part
from data.product_photos import photograph, sample_view
from data.products import SUPER_CLASSES, draw_product
from utils.paths import atomic_write

VERSION = 1  # of the drawing code: another number, other pictures
TRAIN, TEST = 1, 2  # the sides draw from separate random streams, hence other products
STYLE, DETAIL, PHOTO, COUNT = 1, 2, 3, 4
FEWEST, MOST = 2, 12  # photographs of a product
HEADER = "image_id class_id super_class_id path"


class Product(NamedTuple):
    """A product of the set: what its photographs follow from, and its number in the lists."""

    side: int
    number: int  # 0.. within its side
    class_id: int  # 1.., those of the training side first; ordered by super-class within a side

    @property
    def super_class_id(self) -> int:
        """1.., in the order of `SUPER_CLASSES`."""
        return self.number % len(SUPER_CLASSES) + 1

    @property
    def super_class(self) -> str:
        """One of `SUPER_CLASSES`."""
        return list(SUPER_CLASSES)[self.super_class_id - 1]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `make_mini products`."""
    parser.add_argument("--out", type=Path, default=Path("data"), help="folder of the set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train-products", type=int, default=564, help="about 5.3 images each")
    parser.add_argument("--test-products", type=int, default=564, help="likewise, other products")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that draw")
    parser.add_argument("--overwrite", action="store_true", help="replace a set drawn otherwise")


def make(options: argparse.Namespace) -> None:
    """Draw the set; ValueError for sizes that make none."""
    if options.train_products < 2 or options.test_products < 2:
        raise ValueError("--train-products and --test-products must be 2 or more each")
    if options.workers < 1:
        raise ValueError(f"--workers is {options.workers}, must be 1 or more")
    sizes = {k: getattr(options, k) for k in ("train_products", "test_products")}
    make_side(options, options.out / "mini_products", VERSION, sizes, draw_set)


def list_products(train: int, test: int) -> list[Product]:
    """All products in the order of their class ids."""
    products: list[Product] = []
    for side, count in ((TRAIN, train), (TEST, test)):
        order = sorted(range(count), key=lambda index: (index % len(SUPER_CLASSES), index))
        products += [Product(side, i, len(products) + n) for n, i in enumerate(order, start=1)]
    return products


def _family(index: int) -> int:
    """Products of one family share their style: three of a super-class in every third trio."""
    kind, number = index % len(SUPER_CLASSES), index // len(SUPER_CLASSES)
    first = number // 3 * 3 if number // 3 % 3 == 0 else number
    return first * len(SUPER_CLASSES) + kind


def make_parts(seed: int, product: Product) -> list[Part]:
    """The parts of a product; a pure function of its arguments."""
    side, index = product.side, product.number
    style = np.random.default_rng([seed, side, STYLE, _family(index)])
    detail = np.random.default_rng([seed, side, DETAIL, index])
    return draw_product(product.super_class, style, detail)


def list_photos(seed: int, product: Product) -> list[str]:
    """Paths of a product's photographs, named as in SOP: an article number, `_`, 0, 1, ..."""
    rng = np.random.default_rng([seed, product.side, COUNT, product.number])
    count = FEWEST + int(rng.binomial(MOST - FEWEST, rng.beta(2.0, 4.0)))
    key = f"{seed}/{product.side}/{product.number}".encode()
    digits = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") % 1_000_000
    article = 110_000_000_000 + product.class_id * 1_000_000 + digits
    return [f"{product.super_class}_final/{article}_{view}.JPG" for view in range(count)]


def _draw_photos(folder: Path, seed: int, products: list[Product], index: int) -> list[str]:
    """Draw the photographs of a product that are not there yet; returns the paths of all."""
    product = products[index]
    paths = list_photos(seed, product)
    missing = [view for view, path in enumerate(paths) if not (folder / path).exists()]
    parts = make_parts(seed, product) if missing else []
    for view_number in missing:
        rng = np.random.default_rng([seed, product.side, PHOTO, product.number, view_number])
        view = sample_view(rng)
        write_picture(folder / paths[view_number], photograph(parts, view, rng), view.quality)
    return paths


def draw_set(folder: Path, options: argparse.Namespace) -> None:
    """Pictures, Ebay_train.txt, Ebay_test.txt, Ebay_info.txt and sheet.jpg.

    Pictures of an interrupted drawing are kept: `make_side` has seen that they are of this set.
    """
    if options.overwrite:
        for name in SUPER_CLASSES:
            for old in (folder / f"{name}_final").glob("*.JPG"):
                old.unlink()
    products = list_products(options.train_products, options.test_products)
    draw = partial(_draw_photos, folder, options.seed, products)
    photos = draw_all(draw, len(products), options.workers, "products", "product")
    rows = [
        (product, path) for product, paths in zip(products, photos, strict=True) for path in paths
    ]
    lines = [
        (product.side, f"{number} {product.class_id} {product.super_class_id} {path}")
        for number, (product, path) in enumerate(rows, start=1)
    ]
    for name, sides in (("train", (TRAIN,)), ("test", (TEST,)), ("info", (TRAIN, TEST))):
        listed = [line for side, line in lines if side in sides]
        text = "\n".join([HEADER, *listed]) + "\n"
        atomic_write(folder / f"Ebay_{name}.txt", text.encode())
        tqdm.write(f"{folder}: Ebay_{name}.txt lists {len(listed)} images")
    sheet = [
        [(folder / path, f"{product.class_id}") for path in paths[:8]]
        for product, paths in zip(products, photos, strict=True)
        if product.side == TEST and product.number < 2 * len(SUPER_CLASSES)
    ]
    draw_sheet(sheet, folder / "sheet.jpg", side=128)
