"""What only OpenSlide reads: MRXS, VMS, VMU, CZI, and TIFF whose tiles overlap."""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import openslide

from microtome.arrays import Pixels
from microtome.errors import DamagedSlide
from microtome.slides.base import Mpp, OnBadTile
from microtome.slides.jpeg import blend_over_white
from microtome.slides.source import identity, open_source
from microtome.slides.tiff_pages import to_levels
from microtome.slides.tiled import Encoded, SlideFacts, TiledSlide, TileGrid, UndecodableTile

TILE_PX = 512
VENDORS = {
    "mirax": "3DHISTECH MRXS",
    "hamamatsu": "Hamamatsu VMS",
    "zeiss": "Zeiss CZI",
    "ventana": "Ventana BIF",
    "aperio": "Aperio SVS",
}


def vendor_of(path: str) -> str | None:
    """OpenSlide's name of the format, or None where it knows none."""
    vendor: str | None = openslide.OpenSlide.detect_format(path)
    return vendor


def open_vendor(path: str, why: str, on_bad_tile: OnBadTile) -> TiledSlide:
    """A slide that OpenSlide reads.

    Parameters
    ----------
    why
        The reason for OpenSlide, for the record.

    Raises
    ------
    DamagedSlide
        If OpenSlide knows the format, but does not open it.
    """
    try:
        store = VendorStore(path)
    except openslide.OpenSlideError as error:
        raise DamagedSlide(path, f"damaged or incomplete (OpenSlide: {error})") from error
    vendor = store.properties.get(openslide.PROPERTY_NAME_VENDOR, "")
    facts = SlideFacts(
        uri=path,
        format=VENDORS.get(vendor, vendor),
        reader=f"OpenSlide {openslide.__library_version__}: {why}",
        levels=to_levels(store.grids),
        mpp=_mpp(store.properties),
        identity=_identity(Path(path)),
    )
    return TiledSlide(facts, store, on_bad_tile)


class VendorStore:
    """Squares of each level, read through OpenSlide. See `TileStore`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._slide = openslide.OpenSlide(path)
        self.properties = dict(self._slide.properties)
        self._grids = tuple(
            TileGrid(height_px, width_px, TILE_PX, TILE_PX)
            for width_px, height_px in self._slide.level_dimensions
        )
        self._downsamples = tuple(self._slide.level_downsamples)

    @property
    def grids(self) -> tuple[TileGrid, ...]:
        return self._grids

    def fetch(self, level: int, indices: Sequence[int]) -> Iterator[tuple[int, Encoded]]:
        """See `TileStore.fetch`. OpenSlide reads and decodes in one: a tile stands for itself."""
        return ((index, (b"%d" % index,)) for index in indices)

    def decode(self, level: int, index: int, encoded: Encoded, shrink: int) -> Pixels:
        """See `TileStore.decode`."""
        place = self._grids[level].tile(index)
        downsample = self._downsamples[level]
        corner = round(place.x0 * downsample), round(place.y0 * downsample)
        slide = self._slide
        try:
            tile = slide.read_region(corner, level, (place.width, place.height))
        except openslide.OpenSlideError as error:
            self._reopen(slide)
            raise UndecodableTile(str(error)) from error
        return blend_over_white(np.asarray(tile))

    def _reopen(self, failed: openslide.OpenSlide) -> None:
        """OpenSlide answers every call after an error with that error: start anew."""
        with self._lock:
            if self._slide is failed:
                self._slide = openslide.OpenSlide(self._path)

    def as_jpeg(self, level: int, encoded: Encoded) -> bytes | None:
        """See `TileStore.as_jpeg`. OpenSlide gives pixels only."""
        return None

    def can_shrink(self, level: int) -> bool:
        return False

    def close(self) -> None:
        self._slide.close()


def _mpp(properties: dict[str, str]) -> Mpp | None:
    y = float(properties.get(openslide.PROPERTY_NAME_MPP_Y, 0))
    x = float(properties.get(openslide.PROPERTY_NAME_MPP_X, 0))
    return Mpp(y, x) if y > 0 and x > 0 else None


def _identity(path: Path) -> str:
    """Hex sha256 over the named file, and names and sizes of the parts that belong to it."""
    source = open_source(str(path))
    digest = hashlib.sha256(identity(source).encode())
    source.close()
    folder = path.with_suffix("")
    parts = folder.iterdir() if folder.is_dir() else path.parent.glob(f"{path.stem}*")
    for part in sorted(part for part in parts if part.is_file() and part != path):
        digest.update(f"{part.name} {part.stat().st_size}\n".encode())
    index = folder / "Index.dat"
    if index.is_file():
        digest.update(index.read_bytes())
    return digest.hexdigest()
