"""Where the real sets and the released DELG models come from: addresses, sizes, checks.

Addresses and checksums are those of the papers' own downloaders; a set that may only be fetched
after agreeing to terms has its page alone. Nobody's data is passed on here.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from utils.revisited import load_ground_truth

GLDV2 = "https://s3.amazonaws.com/google-landmark"
OXFORD = "https://www.robots.ox.ac.uk/~vgg/data/oxbuildings"
PARIS = "https://www.robots.ox.ac.uk/~vgg/data/parisbuildings"
REVISITED = "http://cmp.felk.cvut.cz/revisitop/data/datasets"
DISTRACTORS = "http://ptak.felk.cvut.cz/revisitop/revisitop1m"

Rename = Callable[[PurePosixPath], PurePosixPath | None]


def keep(path: PurePosixPath) -> PurePosixPath:
    """Files of an archive where it has them."""
    return path


def flat_pictures(path: PurePosixPath) -> PurePosixPath | None:
    """Pictures in one folder, nothing else."""
    return PurePosixPath(path.name) if path.suffix.lower() in (".jpg", ".jpeg") else None


@dataclass(frozen=True)
class Remote:
    """One file. `path`: below the data folder; an archive lies there until it is unpacked."""

    address: str
    path: str
    md5_address: str | None = None  # of a file whose first word is the md5 of this one
    unpack_to: str | None = None  # folder below the data folder, for a tar archive
    rename: Rename = keep


@dataclass(frozen=True)
class Source:
    """One set. Without files it has to be fetched by hand, as `how` says."""

    name: str
    content: str
    size: str  # in words
    page: str
    files: tuple[Remote, ...] = ()
    how: str = ""  # what to do, where there is no file to fetch
    checked: str = "length"  # how a fetched file is told to be whole
    check: Callable[[Path], None] | None = field(default=None, compare=False)  # of the data folder


def count_pictures(folder: str, expected: int) -> Callable[[Path], None]:
    """A check that a folder of pictures is complete."""

    def check(root: Path) -> None:
        found = sum(path.suffix.lower() == ".jpg" for path in (root / folder).iterdir())
        if found != expected:
            raise ValueError(
                f"{root / folder} holds {found} pictures, expected {expected}; delete the archive "
                "below archives/ and run the command again"
            )

    return check


def revisited_truth(path: str, queries: int, gallery: int) -> Callable[[Path], None]:
    """A check that a ground truth is that of the benchmark."""

    def check(root: Path) -> None:
        truth = load_ground_truth(root / path)
        found = len(truth.qimlist), len(truth.imlist)
        if found != (queries, gallery):
            raise ValueError(
                f"{root / path} has {found[0]} queries and {found[1]} gallery images, expected "
                f"{queries} and {gallery}; delete it and run the command again"
            )

    return check


def _gldv2(split: str, count: int) -> tuple[Remote, ...]:
    """The archives of a split, `<a>/<b>/<c>/<id>.jpg` in each."""
    names = [f"images_{number:03d}" for number in range(count)]
    return tuple(
        Remote(
            f"{GLDV2}/{split}/{name}.tar", f"archives/gldv2/{split}/{name}.tar",
            f"{GLDV2}/md5sum/{split}/md5.{name}.txt", f"gldv2/{split}",
        )
        for name in names
    )  # fmt: skip


def _archive(address: str, folder: str, rename: Rename = keep) -> Remote:
    return Remote(address, f"archives/{address.rpartition('/')[2]}", None, folder, rename)


GLDV2_PAGE = "https://github.com/cvdfoundation/google-landmark"
GLDV2_LISTS = (
    *("metadata/train.csv", "metadata/train_clean.csv", "metadata/index_image_to_landmark.csv"),
    *("ground_truth/recognition_solution_v2.1.csv", "ground_truth/retrieval_solution_v2.1.csv"),
)
VG = "https://github.com/gmberton/VPR-datasets-downloader"
VG_HOW = (
    "its scripts write the folders images/{train,val,test}/{database,queries}/ with UTM names; put "
    "or link them below data/"
)

SOURCES = (
    Source(
        "oxford5k", "Oxford Buildings, 5,063 images", "1 archive", f"{OXFORD}/",
        (_archive(f"{OXFORD}/oxbuild_images-v1.tgz", "oxford5k/jpg", flat_pictures),),
        checked="length, CRC of the archive, number of images",
        check=count_pictures("oxford5k/jpg", 5063),
    ),
    Source(
        "roxford5k", "ground truth of Revisited Oxford, 70 queries, 4,993 gallery images",
        "1 file, below 1 MB", "http://cmp.felk.cvut.cz/revisitop/",
        (Remote(f"{REVISITED}/roxford5k/gnd_roxford5k.pkl", "oxford5k/gnd_roxford5k.pkl"),),
        checked="length, form, numbers of images",
        check=revisited_truth("oxford5k/gnd_roxford5k.pkl", 70, 4993),
    ),
    Source(
        "paris6k", "Paris Buildings, 6,412 files of which 6,392 are used", "2 archives",
        f"{PARIS}/",
        tuple(_archive(f"{PARIS}/paris_{k}-v1.tgz", "paris6k/jpg", flat_pictures) for k in (1, 2)),
        checked="length, CRC of the archives",
    ),
    Source(
        "rparis6k", "ground truth of Revisited Paris, 70 queries, 6,322 gallery images",
        "1 file, below 1 MB", "http://cmp.felk.cvut.cz/revisitop/",
        (Remote(f"{REVISITED}/rparis6k/gnd_rparis6k.pkl", "paris6k/gnd_rparis6k.pkl"),),
        checked="length, form, numbers of images",
        check=revisited_truth("paris6k/gnd_rparis6k.pkl", 70, 6322),
    ),
    Source(
        "revisitop1m", "1,001,001 distractors", "100 archives and their list",
        "http://cmp.felk.cvut.cz/revisitop/",
        (
            Remote(f"{DISTRACTORS}/revisitop1m.txt", "revisitop1m/revisitop1m.txt"),
            *(
                _archive(f"{DISTRACTORS}/jpg/revisitop1m.{k}.tar.gz", "revisitop1m/jpg")
                for k in range(1, 101)
            ),
        ),
        checked="length, CRC of the archives",
    ),
    Source(
        "gldv2", "Google Landmarks v2, training images", "500 archives", GLDV2_PAGE,
        _gldv2("train", 500), checked="md5 of each archive",
    ),
    Source(
        "gldv2-index", "Google Landmarks v2, index images", "100 archives", GLDV2_PAGE,
        _gldv2("index", 100), checked="md5 of each archive",
    ),
    Source(
        "gldv2-test", "Google Landmarks v2, test images", "20 archives", GLDV2_PAGE,
        _gldv2("test", 20), checked="md5 of each archive",
    ),
    Source(
        "gldv2-lists", "Google Landmarks v2, lists and solutions", "5 csv files", GLDV2_PAGE,
        tuple(
            Remote(f"{GLDV2}/{name}", f"gldv2/meta/{name.partition('/')[2]}")
            for name in GLDV2_LISTS
        ),
    ),
    Source(
        "delg-models", "released DELG and DELF models", "4 archives, about 1 GB",
        "http://storage.googleapis.com/delf/",
        how="bash delg_scripts/download_models.sh fetches and unpacks them",
    ),
    Source(
        "sop", "Stanford Online Products, 120,053 images", "about 3 GB",
        "https://cvgl.stanford.edu/projects/lifted_struct/",
        how="python -m rrt_sop.prepare_data fetches, unpacks and checks it",
    ),
    Source(
        "msls", "Mapillary Street-Level Sequences", "see the page",
        "https://www.mapillary.com/dataset/places",
        how="agree to the terms on the page; unpack to data/msls/{train_val,test}/",
    ),
    Source("pitts30k", "Pittsburgh", "see the page", VG, how=VG_HOW),
    Source("tokyo247", "Tokyo 24/7", "see the page", VG, how=VG_HOW),
    Source("st_lucia", "St Lucia", "see the page", VG, how=VG_HOW),
    Source("nordland", "Nordland", "see the page", VG, how=VG_HOW),
    Source("san_francisco", "R-SF", "see the page", VG, how=VG_HOW),
)  # fmt: skip
