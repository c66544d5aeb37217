"""DICOM whole-slide microscopy: wsidicom finds the frames, TILED_FULL or TILED_SPARSE.

JPEG frames are decoded here, in the colours that the stream itself declares: scanners and
converters write RGB streams under a header that says YBR_FULL, which OpenSlide refuses.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import wsidicom
from wsidicom.errors import WsiDicomError
from wsidicom.geometry import Point
from wsidicom.group import Level as DicomLevel

from microtome.arrays import Pixels
from microtome.errors import DamagedSlide, NotASlide, UnsupportedSlide
from microtome.slides import jpeg
from microtome.slides.base import Mpp, OnBadTile
from microtome.slides.jpeg_header import describe
from microtome.slides.tiff_pages import to_levels
from microtome.slides.tiled import Encoded, SlideFacts, TiledSlide, TileGrid, UndecodableTile

JPEG_SYNTAXES = {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"}
BATCH_TILES = 256


def open_dicom(uri: str, on_bad_tile: OnBadTile) -> TiledSlide:
    """A slide of one file, or of a folder that holds its levels.

    Raises
    ------
    NotASlide, DamagedSlide, UnsupportedSlide
        If it cannot be read; see each.
    """
    with _parsing(uri):
        wsi = wsidicom.WsiDicom.open(uri)
    try:
        return _open(uri, wsi, on_bad_tile)
    except BaseException:
        wsi.close()
        raise


def _open(uri: str, wsi: wsidicom.WsiDicom, on_bad_tile: OnBadTile) -> TiledSlide:
    if len(wsi.pyramids) != 1:
        has = f"has {len(wsi.pyramids)} pictures of full size"
        raise UnsupportedSlide(uri, has, "put the files of one slide into a folder of their own")
    levels = tuple(sorted(wsi.pyramids[0], key=lambda level: -level.size.width))
    for level in levels:
        _refuse_pixels(uri, level)
    store = DicomStore(wsi, levels)
    with _parsing(uri):
        for number, grid in enumerate(store.grids):
            # The table of frames is read at the first use: a file cut short shows itself here.
            list(store.fetch(number, sorted({0, grid.rows * grid.cols - 1})))
    mpp = levels[0].mpp
    facts = SlideFacts(
        uri=uri,
        format=f"DICOM WSM, {_compression(levels[0])}",
        reader="wsidicom: DICOM; frames by libjpeg-turbo in the colours that each stream declares",
        levels=to_levels(store.grids),
        mpp=Mpp(mpp.height, mpp.width) if mpp and mpp.height > 0 and mpp.width > 0 else None,
        identity=_identity(levels),
    )
    return TiledSlide(facts, store, on_bad_tile)


class DicomStore:
    """Frames of a DICOM pyramid, the default focal plane and optical path. See `TileStore`."""

    def __init__(self, wsi: wsidicom.WsiDicom, levels: tuple[DicomLevel, ...]) -> None:
        self._wsi = wsi
        self._images = tuple(level.default_instance.image_data for level in levels)

    @property
    def grids(self) -> tuple[TileGrid, ...]:
        return tuple(
            TileGrid(
                image.image_size.height, image.image_size.width, image.tile_size.height, image.tile_size.width
            )
            for image in self._images
        )

    def fetch(self, level: int, indices: Sequence[int]) -> Iterator[tuple[int, Encoded]]:
        """See `TileStore.fetch`."""
        image, cols = self._images[level], self.grids[level].cols
        plane = image.default_z, image.default_path
        points = {index: Point(index % cols, index // cols) for index in indices}
        stored = [index for index in indices if not image.is_sparse(points[index], *plane)]
        yield from ((index, ()) for index in indices if index not in set(stored))
        for start in range(0, len(stored), BATCH_TILES):
            batch = stored[start : start + BATCH_TILES]
            frames = image.get_encoded_tiles([points[index] for index in batch], *plane)
            yield from ((index, (frame,)) for index, frame in zip(batch, frames, strict=True))

    def decode(self, level: int, index: int, encoded: Encoded, shrink: int) -> Pixels:
        """See `TileStore.decode`."""
        image, (frame,) = self._images[level], encoded
        stream = self.as_jpeg(level, encoded)
        if stream is not None:
            return jpeg.decode(stream, shrink)
        try:
            tile: Pixels = image.decoder.decode(frame)
        # pydicom, Pillow and imagecodecs each raise their own.
        except (ValueError, RuntimeError, OSError) as error:
            raise UndecodableTile(str(error)) from error
        return tile

    def as_jpeg(self, level: int, encoded: Encoded) -> bytes | None:
        """See `TileStore.as_jpeg`."""
        image, (frame,) = self._images[level], encoded
        if str(image.transfer_syntax) not in JPEG_SYNTAXES:
            return None
        says = jpeg.AS_RGB if image.photometric_interpretation == "RGB" else b""
        return frame if jpeg.says_colour(frame) else jpeg.complete(frame, b"", says)

    def can_shrink(self, level: int) -> bool:
        """Whether libjpeg can average squares of 8 px while it decodes."""
        grid, syntax = self.grids[level], str(self._images[level].transfer_syntax)
        return syntax in JPEG_SYNTAXES and grid.tile_height_px % 8 == grid.tile_width_px % 8 == 0

    def close(self) -> None:
        self._wsi.close()


@contextmanager
def _parsing(uri: str) -> Iterator[None]:
    try:
        yield
    except EOFError as error:
        raise DamagedSlide(uri, f"a DICOM slide that was cut short ({error})") from error
    except WsiDicomError as error:
        raise NotASlide(uri, f"DICOM without a whole-slide image that fits together ({error})") from error


def _refuse_pixels(uri: str, level: DicomLevel) -> None:
    image = level.default_instance.image_data
    if image.samples_per_pixel != 3 or image.bits != 8:
        has = f"has {image.samples_per_pixel} channel(s) of {image.bits} bit, but 8-bit RGB is needed"
        raise UnsupportedSlide(uri, has, "choose the brightfield image of the series")


def _compression(level: DicomLevel) -> str:
    image = level.default_instance.image_data
    if str(image.transfer_syntax) not in JPEG_SYNTAXES:
        return str(image.transfer_syntax.name)
    frame = image.get_encoded_tile(Point(0, 0), image.default_z, image.default_path)
    return f"JPEG {describe(frame)}".strip()


def _identity(levels: Sequence[DicomLevel]) -> str:
    """Hex sha256 over the instances' uids, sizes and frame counts."""
    datasets = [dataset for level in levels for one in level.instances.values() for dataset in one.datasets]
    facts = sorted((str(one.instance_uid), str(one.image_size), one.frame_count) for one in datasets)
    return hashlib.sha256(repr(facts).encode()).hexdigest()
