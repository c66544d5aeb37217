"""What a TIFF says of its resolution, in um/px. Never guessed: None where it does not say."""

import re
from typing import Any
from xml.etree import ElementTree

import tifffile

from microtome.slides.base import Mpp

UM_PER_INCH, UM_PER_CM = 25_400.0, 10_000.0
# What programs write when they do not know: screens, printers, and 1 pixel per unit.
MEANINGLESS_DPI = (1, 72, 75, 96, 100, 150, 200, 300, 400, 600, 1200, 2.54)
UM_PER_UNIT = {"m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "pm": 1e-6}
APERIO_MPP = re.compile(r"(?:^|\|)\s*MPP\s*=\s*([0-9.]+)", re.IGNORECASE)


def find_mpp(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> Mpp | None:
    """The resolution of level 0, by the format's own metadata, else by the resolution tags."""
    return _aperio(page) or _ome(tiff, page) or _philips(tiff) or _ventana(tiff) or _tags(page)


def _mpp(y: float, x: float) -> Mpp | None:
    return Mpp(y, x) if y > 0 and x > 0 else None


def _aperio(page: tifffile.TiffPage) -> Mpp | None:
    found = APERIO_MPP.search(page.description) if page.description.startswith("Aperio") else None
    return _mpp(float(found[1]), float(found[1])) if found else None


def _ome(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> Mpp | None:
    root = _xml(tiff.ome_metadata)
    for pixels in () if root is None else root.iter():
        if pixels.tag.endswith("}Pixels") and int(pixels.get("SizeX", 0)) == page.imagewidth:
            return _ome_size(pixels)
    return None


def _ome_size(pixels: ElementTree.Element) -> Mpp | None:
    sizes = []
    for axis in "YX":
        unit = UM_PER_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"), 0.0)
        sizes.append(float(pixels.get(f"PhysicalSize{axis}", 0)) * unit)
    return _mpp(*sizes)


def _philips(tiff: tifffile.TiffFile) -> Mpp | None:
    """The finest of the spacings, which are mm between rows and between columns."""
    root = _xml(tiff.philips_metadata)
    spacings = [] if root is None else root.findall(".//Attribute[@Name='DICOM_PIXEL_SPACING']")
    pairs = [[float(value) * 1e3 for value in (one.text or "").replace('"', "").split()] for one in spacings]
    finest = min((pair for pair in pairs if len(pair) == 2), default=None)
    return _mpp(*finest) if finest else None


def _ventana(tiff: tifffile.TiffFile) -> Mpp | None:
    root = _xml(tiff.bif_metadata) if tiff.is_bif else None
    for scan in () if root is None else root.iter("iScan"):
        res = float(scan.get("ScanRes", 0))
        return _mpp(res, res)
    return None


def _xml(text: Any) -> ElementTree.Element | None:
    if not text:
        return None
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return None


def _tags(page: tifffile.TiffPage) -> Mpp | None:
    um_per_unit = {2: UM_PER_INCH, 3: UM_PER_CM}.get(int(page.tags.valueof(296, 2)))
    if um_per_unit is None:
        return None
    sizes = []
    for tag in (283, 282):
        count, per = page.tags.valueof(tag, (0, 1))
        if count <= 0 or per <= 0:
            return None
        sizes.append(um_per_unit * per / count)
    if any(abs(UM_PER_INCH / sizes[1] - dpi) < 0.01 * dpi for dpi in MEANINGLESS_DPI):
        return None
    return _mpp(*sizes)
