"""Which reader takes a slide: decided by its content, not by its name."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from microtome.errors import (
    EmptySlide,
    NeedsLocalCopy,
    NoSlideInFolder,
    NotASlide,
    SlideNotFound,
    SlideUnreachable,
)
from microtome.slides.base import OnBadTile, Slide
from microtome.slides.source import Source, is_folder, is_remote, open_source

TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
DICOM_MAGIC, DICOM_MAGIC_AT = b"DICM", 128
CZI_MAGIC = b"ZISRAWFILE"
HEAD_BYTES = 4096
VENDOR_SUFFIXES = {".mrxs", ".vms", ".vmu", ".czi"}


def open_slide(uri: str, *, on_bad_tile: OnBadTile = OnBadTile.FAIL) -> Slide:
    """Open a slide for reading.

    Parameters
    ----------
    uri
        A local path; a folder that holds the parts of one DICOM or MRXS slide; or s3://bucket/key
        (settings from the environment: AWS_ENDPOINT_URL, AWS_REGION, credentials).
    on_bad_tile
        What `Slide.read` does with a tile that cannot be decoded.

    Raises
    ------
    MicrotomeError
        Of the class that names the cause: `SlideNotFound`, `EmptySlide`, `NoSlideInFolder`,
        `NotASlide`, `TruncatedSlide`, `DamagedSlide`, `SlideUnreachable`, `UnsupportedSlide`,
        `NeedsLocalCopy`.
    """
    uri = uri.removeprefix("file://")
    if is_remote(uri) and not uri.partition("://")[2].strip("/"):
        raise SlideNotFound(uri)
    with _reaching(uri):
        source = None if is_folder(uri) else open_source(uri)
    if source is None:
        return _open_folder(uri, on_bad_tile)
    try:
        return _open_file(uri, source, on_bad_tile)
    except BaseException:
        source.close()
        raise


@contextmanager
def _reaching(uri: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise SlideNotFound(uri) from error
    except OSError as error:
        raise SlideUnreachable(uri, str(error)) from error
    # Missing credentials and unknown protocols are neither OSError nor of one class.
    except Exception as error:
        if not is_remote(uri):
            raise
        raise SlideUnreachable(uri, f"{type(error).__name__}: {error}") from error


def _open_file(uri: str, source: Source, on_bad_tile: OnBadTile) -> Slide:
    if not source.size_bytes:
        raise EmptySlide(uri)
    (head,) = source.read([(0, HEAD_BYTES)])
    if head.startswith(TIFF_MAGICS):
        return _open_tiff(uri, source, on_bad_tile)
    if head[DICOM_MAGIC_AT:].startswith(DICOM_MAGIC):
        from microtome.slides.dicom import open_dicom

        source.close()
        return open_dicom(uri, on_bad_tile)
    if vendor := _vendor(uri, head):
        return _open_vendor(uri, source, f"only it reads {vendor}", on_bad_tile)
    from microtome.slides.image import image_kind, open_image

    if kind := image_kind(head):
        return open_image(uri, source, kind, on_bad_tile)
    raise NotASlide(uri, f"it begins with {head[:12].decode('latin-1')!r}")


def _open_tiff(uri: str, source: Source, on_bad_tile: OnBadTile) -> Slide:
    from microtome.slides.tiff import OnlyOpenSlide, open_tiff

    try:
        return open_tiff(uri, source, on_bad_tile)
    except OnlyOpenSlide as reason:
        if is_remote(uri):
            raise
        return _open_vendor(uri, source, f"the file {reason.has}", on_bad_tile)


def _vendor(uri: str, head: bytes) -> str | None:
    """The format's name if OpenSlide has to read it. An MRXS slide begins as a JPEG of its label."""
    if is_remote(uri):
        suffix = Path(uri).suffix.lower()
        if suffix in VENDOR_SUFFIXES or head.startswith(CZI_MAGIC):
            raise NeedsLocalCopy(uri, suffix.removeprefix(".").upper() or "CZI")
        return None
    from microtome.slides.vendor import vendor_of

    return vendor_of(uri)


def _open_vendor(uri: str, source: Source, why: str, on_bad_tile: OnBadTile) -> Slide:
    from microtome.slides.vendor import open_vendor

    source.close()
    return open_vendor(uri, why, on_bad_tile)


def _open_folder(uri: str, on_bad_tile: OnBadTile) -> Slide:
    if is_remote(uri):
        from microtome.slides.dicom import open_dicom

        return open_dicom(uri, on_bad_tile)
    folder = Path(uri)
    slide = _mrxs_of(folder)
    if slide is not None:
        from microtome.slides.vendor import open_vendor

        return open_vendor(str(slide), "only it reads MRXS", on_bad_tile)
    if any(_is_dicom(path) for path in sorted(folder.iterdir()) if path.is_file()):
        from microtome.slides.dicom import open_dicom

        return open_dicom(uri, on_bad_tile)
    files = sum(1 for path in folder.rglob("*") if path.is_file())
    raise NoSlideInFolder(
        uri, f"of {files:,} files, none of them DICOM or MRXS" if files else "without files"
    )


def _mrxs_of(folder: Path) -> Path | None:
    """The one .mrxs file in the folder, or that beside a folder which holds its parts."""
    inside = sorted(folder.glob("*.mrxs"))
    if len(inside) > 1:
        raise NoSlideInFolder(str(folder), f"of {len(inside)} MRXS slides")
    beside = folder.with_name(folder.name + ".mrxs")
    if inside:
        return inside[0]
    return beside if (folder / "Slidedat.ini").is_file() and beside.is_file() else None


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(DICOM_MAGIC_AT + len(DICOM_MAGIC)).endswith(DICOM_MAGIC)
