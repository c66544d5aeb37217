"""Which reader takes a slide: decided by its content, not by its name."""

from pathlib import Path

from microtome.errors import EmptySlide, NotASlide, SlideNotFound
from microtome.slides.base import OnBadTile, Slide
from microtome.slides.source import Source, is_remote, open_source

TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
HEAD_BYTES = 4096


def open_slide(uri: str, *, on_bad_tile: OnBadTile = OnBadTile.FAIL) -> Slide:
    """Open a slide for reading.

    Parameters
    ----------
    uri
        A local path; a folder that holds the parts of one DICOM or MRXS slide; or an address
        that fsspec opens, such as s3://bucket/key (settings from the environment:
        AWS_ENDPOINT_URL, AWS_REGION, credentials).
    on_bad_tile
        What `Slide.read` does with a tile that cannot be decoded.

    Raises
    ------
    MicrotomeError
        Of the class that names the cause: `SlideNotFound`, `EmptySlide`, `NoSlideInFolder`,
        `NotASlide`, `TruncatedSlide`, `UnsupportedSlide`, `NeedsLocalCopy`.
    """
    uri = uri.removeprefix("file://")
    try:
        source = open_source(uri)
    except FileNotFoundError as error:
        raise SlideNotFound(uri) from error
    try:
        return _by_content(uri, source, on_bad_tile)
    except BaseException:
        source.close()
        raise


def _by_content(uri: str, source: Source, on_bad_tile: OnBadTile) -> Slide:
    if not source.size_bytes:
        raise EmptySlide(uri)
    (head,) = source.read([(0, HEAD_BYTES)])
    if head.startswith(TIFF_MAGICS):
        from microtome.slides.tiff import open_tiff

        return open_tiff(uri, source, on_bad_tile)
    from microtome.slides.image import image_kind, open_image

    if kind := image_kind(head):
        return open_image(uri, source, kind, on_bad_tile)
    raise NotASlide(uri, _looks_like(head))


def _looks_like(head: bytes) -> str:
    text = head[:64].decode("utf-8", "replace")
    return f"it begins with {text[:16]!r}"
