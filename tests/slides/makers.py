"""Slides of formats that the shared data lacks, made of real tissue.

Each takes a folder and (y, x, 3) pixels, and returns the path of the slide. The pixels that a
reader must give are the very same for lossless ones.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import simplejpeg
import tifffile

from microtome.arrays import Pixels

APERIO = "Aperio Image Library v12.0.15\n1100x900 [0,0 1100x900] (256x256) {}|AppMag = 40|MPP = 0.2520"
VMS = """[Virtual Microscope Specimen]
NoLayers=1
NoJpegColumns=1
NoJpegRows=1
ImageFile=tile.jpg
MapFile=map.jpg
MacroImage=macro.jpg
PhysicalWidth=250000
PhysicalHeight=200000
PhysicalMacroWidth=1000000
PhysicalMacroHeight=1000000
XOffsetFromSlideCentre=0
YOffsetFromSlideCentre=0
SourceLens=40
"""


def half(pixels: Pixels) -> Pixels:
    """Every second pixel averaged away."""
    return cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def tiles_of(pixels: Pixels, side_px: int) -> list[Pixels]:
    """Full squares, padded at the end by the last pixel."""
    height, width = pixels.shape[:2]
    pad = (0, -height % side_px), (0, -width % side_px), (0, 0)
    padded = np.pad(pixels, pad, mode="edge")
    return [
        np.ascontiguousarray(padded[y : y + side_px, x : x + side_px])
        for y in range(0, height, side_px)
        for x in range(0, width, side_px)
    ]


def svs_jpeg2000_rgb(folder: Path, pixels: Pixels) -> Path:
    """Aperio SVS of compression 33005: lossless RGB."""
    return _svs_jpeg2000(folder, pixels, 33005, "J2K/KDU Q=70")


def svs_jpeg2000_ycbcr(folder: Path, pixels: Pixels) -> Path:
    """Aperio SVS of compression 33003: YCbCr components, no transform in the stream."""
    ycrcb = cv2.cvtColor(pixels, cv2.COLOR_RGB2YCrCb)
    return _svs_jpeg2000(folder, ycrcb[..., [0, 2, 1]], 33003, "J2K/YUV16 Q=70")


def _svs_jpeg2000(folder: Path, pixels: Pixels, code: int, named: str) -> Path:
    encoded = [
        imagecodecs.jpeg2k_encode(tile, level=0, codecformat="j2k", mct=False, reversible=True)
        for tile in tiles_of(pixels, 256)
    ]
    path = folder / "jpeg2000.svs"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            iter(encoded),
            shape=pixels.shape,
            dtype=np.uint8,
            tile=(256, 256),
            compression=code,
            photometric="rgb",
            description=APERIO.format(named),
            metadata=None,
        )
    return path


def svs_jpeg_rgb(folder: Path, pixels: Pixels) -> Path:
    """Aperio SVS whose JPEG holds RGB without a marker that says so, with label, macro and thumbnail."""
    path = folder / "rgb.svs"
    options = {"compression": "jpeg", "compressionargs": {"level": 95, "outcolorspace": "rgb"}}
    with tifffile.TiffWriter(path) as tiff:
        for image, name, tiled in [
            (pixels, "JPEG/RGB Q=95", True),
            (half(half(pixels)), "thumbnail", False),
            (half(pixels), "JPEG/RGB Q=95", True),
            (pixels[:300, :200], "label 200x300", False),
            (pixels[:200, :400], "macro 400x200", False),
        ]:
            tile = {"tile": (240, 240)} if tiled else {"rowsperstrip": 16}
            tiff.write(
                image,
                photometric="rgb",
                description=APERIO.format(name) if tiled else f"Aperio Image Library v12.0.15\n{name}",
                subfiletype=0,
                metadata=None,
                **tile,
                **options,
            )
    return path


def ome_subifds(folder: Path, pixels: Pixels) -> Path:
    """Pyramidal OME-TIFF, as QuPath and Bio-Formats write it, with a macro image beside it."""
    path = folder / "pyramid.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        options = {"photometric": "rgb", "tile": (256, 256), "compression": "deflate"}
        metadata = {"axes": "YXS", "PhysicalSizeX": 505.0, "PhysicalSizeXUnit": "nm"}
        metadata |= {"PhysicalSizeY": 0.506, "PhysicalSizeYUnit": "µm"}
        tiff.write(pixels, subifds=2, metadata=metadata, **options)
        tiff.write(half(pixels), subfiletype=1, **options)
        tiff.write(half(half(pixels)), subfiletype=1, **options)
        tiff.write(pixels[:100, :200], photometric="rgb", metadata={"Name": "macro"})
    return path


def ome_planes(folder: Path, pixels: Pixels) -> Path:
    """OME-TIFF of three 8-bit channels, a page each."""
    path = folder / "planes.ome.tif"
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    tifffile.imwrite(path, planes, ome=True, metadata={"axes": "CYX"}, tile=(256, 256), photometric="minisblack")
    return path


def planar(folder: Path, pixels: Pixels) -> Path:
    """Planar configuration: all of R, then all of G, then all of B."""
    path = folder / "planar.tif"
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", tile=(128, 128), compression="zstd")
    return path


def striped_lzw(folder: Path, pixels: Pixels) -> Path:
    """Strips, LZW and a predictor, as image editors write it; says 72 dpi, which means nothing."""
    path = folder / "striped.tif"
    options = {"compression": "lzw", "predictor": True, "rowsperstrip": 37}
    tifffile.imwrite(path, pixels, photometric="rgb", resolution=(72, 72), resolutionunit="inch", **options)
    return path


def uncompressed(folder: Path, pixels: Pixels) -> Path:
    """One piece of bare pixels, BigTIFF."""
    path = folder / "bare.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", bigtiff=True, rowsperstrip=len(pixels), metadata=None)
    return path


def rgba(folder: Path, pixels: Pixels) -> Path:
    """With an alpha channel, opaque."""
    path = folder / "alpha.tif"
    alpha = np.full((*pixels.shape[:2], 1), 255, np.uint8)
    options = {"photometric": "rgb", "extrasamples": ["unassalpha"], "tile": (256, 256), "compression": "deflate"}
    tifffile.imwrite(path, np.concatenate([pixels, alpha], axis=2), **options)
    return path


def factor_8(folder: Path, pixels: Pixels) -> Path:
    """Plain TIFF whose second level is eight times coarser, with a page between that is no level."""
    path = folder / "factor8.tif"
    options = {"photometric": "rgb", "tile": (64, 64), "compression": "deflate", "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(pixels[:896, :1088], resolution=(40_000, 20_000), resolutionunit="centimeter", **options)
        tiff.write(pixels[:128, :640], **options)
        tiff.write(half(half(half(pixels[:896, :1088]))), subfiletype=1, **options)
    return path


def png(folder: Path, pixels: Pixels) -> Path:
    path = folder / "field.png"
    path.write_bytes(imagecodecs.png_encode(pixels))
    return path


def jpeg(folder: Path, pixels: Pixels) -> Path:
    path = folder / "field.jpg"
    path.write_bytes(simplejpeg.encode_jpeg(pixels, quality=95, colorsubsampling="420"))
    return path


def vms(folder: Path, pixels: Pixels) -> Path:
    """Hamamatsu VMS: one JPEG with restart markers, described by a text file."""
    whole = np.ascontiguousarray(pixels[:896, :1088])
    (folder / "tile.jpg").write_bytes(_with_restarts(whole))
    (folder / "map.jpg").write_bytes(_with_restarts(np.ascontiguousarray(half(half(whole))[:224, :272])))
    (folder / "macro.jpg").write_bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(whole[:200, :400])))
    path = folder / "slide.vms"
    path.write_text(VMS)
    return path


def _with_restarts(pixels: Pixels) -> bytes:
    """JPEG whose restart interval is a row of blocks."""
    ok, encoded = cv2.imencode(
        ".jpg",
        pixels[..., ::-1],
        [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_RST_INTERVAL, pixels.shape[1] // 16]
        + [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422],
    )
    assert ok
    return encoded.tobytes()


LOSSLESS: dict[str, Callable[[Path, Pixels], Path]] = {
    "svs_jpeg2000_rgb": svs_jpeg2000_rgb,
    "ome_subifds": ome_subifds,
    "ome_planes": ome_planes,
    "planar": planar,
    "striped_lzw": striped_lzw,
    "uncompressed": uncompressed,
    "rgba": rgba,
    "png": png,
}
LOSSY: dict[str, Callable[[Path, Pixels], Path]] = {
    "svs_jpeg2000_ycbcr": svs_jpeg2000_ycbcr,
    "svs_jpeg_rgb": svs_jpeg_rgb,
    "jpeg": jpeg,
}
MAKERS = {**LOSSLESS, **LOSSY, "factor_8": factor_8, "vms": vms}
