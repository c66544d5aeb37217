"""Slides that arrive: where they are looked for, which version one is, where its result goes.

A version is named by what a HEAD request (or stat) says, so that a notification, a listing and a
folder that is watched all give the same slide the same name, and its result one place.
"""

import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from microtome.errors import OptionError
from microtome.s3 import S3Object, bucket_of

SUFFIXES = (".svs", ".tif", ".tiff", ".ndpi", ".scn", ".bif", ".mrxs", ".vms", ".czi")
LOCAL_ONLY = (".mrxs", ".vms", ".czi")
"""Formats that are not read from S3: several files, or a library that wants a path."""
SLIDES = uuid.uuid5(uuid.NAMESPACE_URL, "microtome:slide-version")


@dataclass(frozen=True, slots=True)
class SlideVersion:
    """A slide as it lies there now."""

    uri: str
    size_bytes: int
    stamp: str
    """What changes when the slide does: the ETag, or times and sizes of its files."""

    @property
    def id(self) -> uuid.UUID:
        """The same for the same slide and version, wherever and however often it is asked for."""
        return uuid.uuid5(SLIDES, f"{self.uri}\n{self.size_bytes}\n{self.stamp}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Inbox:
    """Where slides may come from and where their results go."""

    sources: tuple[str, ...]
    """`s3://bucket/prefix` or a local folder; slides are taken from nowhere else."""
    output: str
    """Folder or `s3://bucket/prefix` of the results."""
    suffixes: tuple[str, ...] = SUFFIXES

    def __post_init__(self) -> None:
        for name, places in (("MICROTOME_SOURCES", self.sources), ("MICROTOME_OUTPUT", (self.output,))):
            for place in places:
                if not place.startswith(("s3://", "/")):
                    raise OptionError(name, place or "empty", "s3://… or an absolute path")

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Inbox":
        """MICROTOME_SOURCES (separated by commas), MICROTOME_OUTPUT, MICROTOME_SUFFIXES.

        Raises
        ------
        OptionError
            If there is no output, or a place is neither an absolute path nor on S3.
        """
        return cls(
            sources=tuple(_place(source) for source in _words(environ.get("MICROTOME_SOURCES", ""))),
            output=_place(environ.get("MICROTOME_OUTPUT", "")),
            suffixes=tuple(_words(environ.get("MICROTOME_SUFFIXES", "").lower())) or SUFFIXES,
        )

    @property
    def buckets(self) -> frozenset[str]:
        """Buckets that slides may come from."""
        return frozenset(
            source.removeprefix("s3://").split("/")[0]
            for source in self.sources
            if source.startswith("s3://")
        )

    @property
    def folders(self) -> tuple[Path, ...]:
        return tuple(Path(source) for source in self.sources if not source.startswith("s3://"))

    def takes(self, uri: str) -> bool:
        """Whether a slide of this address is to be segmented: by source and suffix."""
        name = uri.lower()
        if uri.startswith("s3://") and name.endswith(LOCAL_ONLY):
            return False
        # A result may lie beside the slides, and its pictures must not become slides.
        is_result = ".ome.zarr/" in uri or _is_below(uri, self.output)
        return name.endswith(self.suffixes) and not is_result and self.source_of(uri) is not None

    def source_of(self, uri: str) -> str | None:
        """The source that the address lies below; of several, the longest."""
        return max((source for source in self.sources if _is_below(uri, source)), key=len, default=None)

    def output_of(self, slide: SlideVersion) -> str:
        """Folder of the result of one version of a slide: no other version's result is touched.

        `OUTPUT/FOLDERS/NAME.svs@VERSION`, FOLDERS as below the slide's source.
        """
        below = slide.uri.removeprefix(self.source_of(slide.uri) or "").strip("/")
        return f"{self.output}/{below}@{slide.id.hex[:12]}"


def look(uri: str) -> SlideVersion:
    """What lies at an address now.

    Raises
    ------
    FileNotFoundError
        If nothing does.
    OSError
        If the store cannot be asked.
    """
    if not uri.startswith("s3://"):
        return _look_at_files(uri)
    bucket, key = bucket_of(uri, is_patient=False)
    try:
        there = bucket.head(key)
    except FileNotFoundError:
        return _look_at_prefix(uri)
    return SlideVersion(uri, there.size_bytes, _stamp(there))


def slides_in(inbox: Inbox, source: str) -> Iterator[SlideVersion]:
    """Every slide below a source, by name."""
    if source.startswith("s3://"):
        yield from _slides_in_bucket(inbox, source)
    else:
        for path in slide_files(inbox, Path(source)):
            try:
                yield look(str(path))
            except FileNotFoundError:
                continue  # taken away meanwhile


def slide_files(inbox: Inbox, folder: Path) -> Iterator[Path]:
    """Slides of a local folder and those below it: files, and folders that hold DICOM.

    Links to folders are not followed: they may lead out of the source, or round in a circle.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    if any(entry.name.lower().endswith(".dcm") and entry.is_file() for entry in entries):
        yield folder
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from slide_files(inbox, Path(entry.path))
        elif inbox.takes(entry.path):
            yield Path(entry.path)


def _slides_in_bucket(inbox: Inbox, source: str) -> Iterator[SlideVersion]:
    bucket, root = bucket_of(source, is_patient=False)
    for there in bucket.below(root):
        uri = f"s3://{bucket.name}/{there.key}"
        if inbox.takes(uri):
            yield SlideVersion(uri, there.size_bytes, _stamp(there))


def _look_at_files(path: str) -> SlideVersion:
    """A slide of one file or of many: the count, sizes and newest time of all its parts."""
    parts = parts_of(Path(path))
    stats = [part.stat() for part in parts]
    size = sum(stat.st_size for stat in stats)
    return SlideVersion(path, size, f"{len(parts)} {max(stat.st_mtime_ns for stat in stats)}")


def _look_at_prefix(uri: str) -> SlideVersion:
    """A slide of many objects (DICOM): their names, sizes and ETags."""
    bucket, root = bucket_of(uri, is_patient=False)
    found = bucket.below(root)
    if not found:
        raise FileNotFoundError(uri)
    parts = [f"{bucket.name}/{part.key} {part.size_bytes} {_stamp(part)}" for part in found]
    size = sum(part.size_bytes for part in found)
    return SlideVersion(uri, size, uuid.uuid5(SLIDES, "\n".join(parts)).hex)


def parts_of(slide: Path) -> list[Path]:
    """The files of a slide: itself, all of its folder (DICOM), or it and the folder beside (MRXS).

    Raises
    ------
    FileNotFoundError
        If there is no such slide.
    """
    if slide.is_dir():
        parts = [path for path in slide.iterdir() if path.is_file()]
        if not parts:
            raise FileNotFoundError(str(slide))
        return parts
    beside = slide.with_suffix("")
    if slide.suffix.lower() == ".mrxs" and beside.is_dir():
        return [slide, *(path for path in beside.iterdir() if path.is_file())]
    return [slide]


def _stamp(there: S3Object) -> str:
    """The ETag; objects without one go by their time."""
    return there.etag or there.modified.strftime("%Y-%m-%dT%H:%M:%S")


def _is_below(uri: str, place: str) -> bool:
    return uri.startswith(place.rstrip("/") + "/")


def _place(text: str) -> str:
    return text.strip().rstrip("/")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
