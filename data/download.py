"""Fetches the real sets from their official addresses, as far as these may be fetched by a program.

    python -m data.download --list                 what there is, from where, and how it is checked
    python -m data.download oxford5k roxford5k     fetch, check, unpack to data/
    python -m data.download gldv2 --parts 0-9      the first ten of its 500 archives
    python -m data.download --sizes oxford5k       ask the server for the number of bytes

An interrupted call goes on where it stood when the same command is given again. Archives lie in
data/archives/ and are deleted once they are unpacked, unless --keep. Read the terms of a set on
its page first.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from data.sources import SOURCES, Remote, Source
from utils.downloads import ask_size, check_digest, download, unpack_tar
from utils.paths import REPO_ROOT, atomic_write
from utils.results import align

logger = logging.getLogger("data.download")

DONE = ".unpacked"  # mark beside an archive that is unpacked


def find(names: Sequence[str]) -> list[Source]:
    """The sources of these names; ValueError for others."""
    known = {source.name: source for source in SOURCES}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no set of the list: {', '.join(known)}")
    return [known[name] for name in names]


def choose_parts(files: Sequence[Remote], parts: str | None) -> list[Remote]:
    """The files of a range "0-9" (both ends included) or "7"; None: all."""
    if parts is None:
        return list(files)
    first, _, last = parts.partition("-")
    try:
        chosen = list(files)[int(first) : int(last or first) + 1]
    except ValueError:
        chosen = []
    if not chosen:
        raise ValueError(f"--parts is {parts!r}, expected a range within 0-{len(files) - 1}")
    return chosen


def listing() -> str:
    """The table of all sets, and below it what has to be fetched by hand."""
    header = ("name", "content", "size", "checked by", "from")
    cells = [
        [source.name, source.content, source.size, source.checked if source.files else "-",
         source.files[0].address if source.files else source.page]
        for source in SOURCES
    ]  # fmt: skip
    by_hand = [f"  {source.name}: {source.how}" for source in SOURCES if not source.files]
    lines = ["", "By hand or by another command:", *by_hand, ""]
    return align(header, cells, ()) + "\n".join(["", *lines])


def show_sizes(sources: Sequence[Source], parts: str | None) -> None:
    """Bytes of each file, as the servers announce them."""
    for source in sources:
        for remote in choose_parts(source.files, parts):
            size = ask_size(remote.address)
            shown = "not announced" if size is None else f"{size:,} bytes"
            print(f"{source.name}  {remote.address}  {shown}", flush=True)


def fetch(remote: Remote, root: Path, keep: bool) -> None:
    """Fetch one file, check it, unpack it."""
    path = root / remote.path
    mark = path.with_name(path.name + DONE)
    if mark.is_file():
        logger.info("%s is unpacked already", path.name)
        return
    download(remote.address, path, f"put it at {path}")
    if remote.md5_address is not None:
        words = download(remote.md5_address, path.with_suffix(".md5")).read_text().split()
        if not words or len(words[0]) != 32:
            path.with_suffix(".md5").unlink()
            raise ValueError(f"{remote.md5_address} holds no md5; run the command again")
        check_digest(path, "md5", words[0])
    if remote.unpack_to is not None:
        count = unpack_tar(path, root / remote.unpack_to, remote.rename)
        if not count:
            raise ValueError(f"{path} holds no file that is wanted; is it the official archive?")
        atomic_write(mark, f"{count} files\n".encode())
        if not keep:
            path.unlink()


def fetch_source(source: Source, root: Path, parts: str | None, keep: bool) -> list[str]:
    """All files of a set; one that fails does not stop the others. What failed, in words."""
    if not source.files:
        return [f"{source.name} is not fetched by this command: {source.how} ({source.page})"]
    failures = []
    for remote in choose_parts(source.files, parts):
        try:
            fetch(remote, root, keep)
        except (OSError, ValueError) as error:
            failures.append(str(error))
            print(f"download: {error}", file=sys.stderr)
    if not failures and parts is None and source.check is not None:
        source.check(root)
    return failures


def main(argv: list[str] | None = None) -> int:
    """The command line; exit code 1 when anything failed."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(
        prog="python -m data.download", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="NAME", help="sets to fetch, see --list")
    parser.add_argument("--list", action="store_true", help="show all sets and fetch nothing")
    parser.add_argument("--sizes", action="store_true", help="ask for sizes and fetch nothing")
    parser.add_argument("--parts", help="only these files of a set: 7, or 0-9")
    parser.add_argument("--out", type=Path, default=REPO_ROOT / "data", help="the data folder")
    parser.add_argument("--keep", action="store_true", help="keep archives that are unpacked")
    options = parser.parse_args(argv)
    if options.list or not options.names:
        print(listing())
        return 0 if options.list else 2
    failures = []
    try:
        sources = find(options.names)
        if options.sizes:
            show_sizes(sources, options.parts)
            return 0
        for source in sources:
            failures += fetch_source(source, options.out, options.parts, options.keep)
    except (OSError, ValueError) as error:
        failures.append(str(error))
    except KeyboardInterrupt:
        print("download: interrupted; the same command goes on", file=sys.stderr)
        return 130
    for failure in failures:
        print(f"download: FAILED: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
