"""Slides of formats that the shared data lacks, made of real tissue.

Each takes a folder and (y, x, 3) pixels, and returns the path of the slide. The pixels that a
reader must give are the very same for lossless ones.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pydicom
import simplejpeg
import tifffile
from pydicom.encaps import encapsulate, generate_frames

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
    tifffile.imwrite(
        path, planes, ome=True, metadata={"axes": "CYX"}, tile=(256, 256), photometric="minisblack"
    )
    return path


def planar(folder: Path, pixels: Pixels) -> Path:
    """Planar configuration: all of R, then all of G, then all of B."""
    path = folder / "planar.tif"
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    tifffile.imwrite(
        path, planes, photometric="rgb", planarconfig="separate", tile=(128, 128), compression="zstd"
    )
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
    options = {
        "photometric": "rgb",
        "extrasamples": ["unassalpha"],
        "tile": (256, 256),
        "compression": "deflate",
    }
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
        [
            *(cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_RST_INTERVAL, pixels.shape[1] // 16),
            *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422),
        ],
    )
    assert ok
    return encoded.tobytes()


PHILIPS = """<?xml version="1.0" encoding="UTF-8" ?>
<DataObject ObjectType="DPUfsImport"><Attribute Name="PIM_DP_SCANNED_IMAGES"><Array>
<DataObject ObjectType="DPScannedImage"><Attribute Name="PIM_DP_IMAGE_TYPE">WSI</Attribute>
<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE"><Array>{}</Array></Attribute>
</DataObject></Array></Attribute></DataObject>"""
PHILIPS_LEVEL = """<DataObject ObjectType="PixelDataRepresentation">
<Attribute Name="DICOM_PIXEL_SPACING" Group="0x0028">"{}" "{}"</Attribute></DataObject>"""


def philips(folder: Path, pixels: Pixels) -> Path:
    """Philips TIFF: levels padded to whole tiles of 512 px, and a tile that is not stored."""
    path = folder / "philips.tiff"
    whole = np.ascontiguousarray(pixels[:896, :1024])
    spacings = [PHILIPS_LEVEL.format(0.00025 * 2**level, 0.0002 * 2**level) for level in range(3)]
    with tifffile.TiffWriter(path) as tiff:
        for level in range(3):
            tiles = [simplejpeg.encode_jpeg(tile, quality=90) for tile in tiles_of(whole, 512)]
            padded = -(-whole.shape[0] // 512) * 512, -(-whole.shape[1] // 512) * 512, 3
            if level == 0:
                tiles[1] = b""
            tiff.write(
                iter(tiles),
                shape=padded,
                dtype=np.uint8,
                tile=(512, 512),
                compression="jpeg",
                photometric="ycbcr",
                subsampling=(1, 1),
                description=PHILIPS.format("".join(spacings)) if level == 0 else f"level={level}",
                software="Philips DP v1.0",
                metadata=None,
            )
            whole = half(whole)
    return path


SCN = """<?xml version="1.0"?>
<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" uuid="u">
<collection name="c" uuid="u" sizeX="1000000" sizeY="900000">
<image name="macro" uuid="a"><pixels sizeX="110" sizeY="90">
<dimension sizeX="110" sizeY="90" r="0" ifd="0"/></pixels>
<view sizeX="1000000" sizeY="900000" offsetX="0" offsetY="0"/></image>
<image name="region" uuid="b"><pixels sizeX="1100" sizeY="900">
<dimension sizeX="1100" sizeY="900" r="0" ifd="1"/><dimension sizeX="550" sizeY="450" r="1" ifd="2"/></pixels>
<view sizeX="275000" sizeY="225000" offsetX="1000" offsetY="1000"/></image>
</collection></scn>"""


def scn(folder: Path, pixels: Pixels) -> Path:
    """Leica SCN: an overview of the glass, then one region of two levels."""
    path = folder / "leica.scn"
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for image, um_per_px in [(pixels[:90, :110], 9.0), (pixels, 0.25), (half(pixels), 0.5)]:
            resolution = (1e4 / um_per_px, 1e4 / um_per_px)
            options = {"photometric": "rgb", "tile": (256, 256), "compression": "deflate", "metadata": None}
            tiff.write(image, description=SCN, resolution=resolution, resolutionunit="centimeter", **options)
    return path


ISCAN = '<iScan Magnification="40" ScanRes="0.25" ScannerModel="VENTANA DP 200"/>'
BIF = """<?xml version="1.0"?><EncodeInfo Ver="2">{iscan}<SlideInfo>{iscan}<AoiInfo XIMAGESIZE="256"
YIMAGESIZE="256" NumRows="3" NumCols="4"/></SlideInfo>
<SlideStitchInfo><ImageInfo AOIScanned="1" AOIIndex="0" NumRows="3" NumCols="4" Width="256" Height="256"
Pos-X="0" Pos-Y="0">{joints}</ImageInfo></SlideStitchInfo>
<AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin></EncodeInfo>"""
JOINT = """<TileJointInfo FlagJoined="1" Confidence="99" Direction="{}" Tile1="{}" Tile2="{}"
OverlapX="{}" OverlapY="0"/>"""


def bif(folder: Path, pixels: Pixels, overlap_px: int) -> Path:
    """Ventana BIF of 4 x 3 tiles, numbered from the bottom left, there and back."""
    path = folder / "ventana.bif"
    joints = []
    for row in range(3):
        for col in range(3):
            tile = row * 4 + col + 1
            pair = (tile, tile + 1) if row % 2 == 0 else (tile + 1, tile)
            joints.append(JOINT.format("RIGHT", *pair, overlap_px))
        if row < 2:
            below, above = row * 4 + 4, row * 4 + 5
            joints.append(JOINT.format("UP", below, above, 0))
    xmp = BIF.format(iscan=ISCAN, joints="".join(joints)).encode()
    whole = np.ascontiguousarray(pixels[:768, :1024])
    options = {"photometric": "ycbcr", "compression": "jpeg", "metadata": None}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        label = np.ascontiguousarray(pixels[:100, :200])
        iscan = ISCAN.encode()
        tiff.write(label, description="Label_Image", extratags=[(700, 1, len(iscan), iscan, True)], **options)
        for level, image in enumerate([whole, half(whole)]):
            tags = [(700, 1, len(xmp), xmp, True)] if level == 0 else []
            name = f"level={level} mag={40 / 2**level:g} quality=90"
            tiff.write(image, tile=(256, 256), description=name, extratags=tags, **options)
    return path


def dicom_sparse(folder: Path, full: Path, keep: list[int]) -> Path:
    """TILED_SPARSE of some frames of a TILED_FULL slide, each with its place."""
    volume = max(full.iterdir(), key=lambda path: path.stat().st_size)
    dataset = pydicom.dcmread(volume)
    frames = list(generate_frames(dataset.PixelData, number_of_frames=dataset.NumberOfFrames))
    cols = -(-dataset.TotalPixelMatrixColumns // dataset.Columns)
    places = []
    for frame in keep:
        row, col = divmod(frame, cols)
        place = pydicom.Dataset()
        place.ColumnPositionInTotalImagePixelMatrix = col * dataset.Columns + 1
        place.RowPositionInTotalImagePixelMatrix = row * dataset.Rows + 1
        place.XOffsetInSlideCoordinateSystem = place.YOffsetInSlideCoordinateSystem = 0
        place.ZOffsetInSlideCoordinateSystem = 0
        item = pydicom.Dataset()
        item.PlanePositionSlideSequence = [place]
        places.append(item)
    dataset.PerFrameFunctionalGroupsSequence = places
    dataset.DimensionOrganizationType = "TILED_SPARSE"
    dataset.NumberOfFrames = len(keep)
    dataset.PixelData = encapsulate([frames[frame] for frame in keep])
    path = folder / "sparse.dcm"
    dataset.save_as(path)
    return path


def giant(folder: Path, source: Path, side_px: int) -> Path:
    """A square BigTIFF without pyramid whose tile table points again and again at real JPEG tiles."""
    path = folder / "giant.tif"
    with tifffile.TiffFile(source) as tiff:
        page = tiff.pages[0]
        places = [*zip(page.dataoffsets, page.databytecounts, strict=True)][::7]
        tables = page.jpegtables
    encoded = source.read_bytes()
    distinct = [encoded[at : at + count] for at, count in places]
    count = (side_px // 256) ** 2
    options = {"photometric": "ycbcr", "subsampling": (2, 2), "compression": "jpeg", "metadata": None}
    if tables:
        options["extratags"] = [(347, 7, len(tables), tables, True)]
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(
            (distinct[number % len(distinct)] if number < len(distinct) else b"" for number in range(count)),
            shape=(side_px, side_px, 3),
            dtype=np.uint8,
            tile=(256, 256),
            **options,
        )
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for code in (324, 325):
            tag = tiff.pages[0].tags[code]
            tag.overwrite([tag.value[number % len(distinct)] for number in range(count)])
    return path


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
