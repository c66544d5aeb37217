"""A slide to a lossless pyramid by another package; runs in an environment of its own.

    python convert_run.py ngff-zarr|ome-zarr|vips SLIDE OUT

Prints the seconds from opening the slide to the last byte; imports are not counted.
"""

import sys
import time


def main(tool: str, slide: str, out: str) -> None:
    print(TOOLS[tool](slide, out))


def with_ngff_zarr(slide: str, out: str) -> float:
    """Averages of 2 x 2, as ours: its default, a Gaussian, is slower still."""
    import dask.array
    import ngff_zarr
    import tifffile
    import zarr

    began = time.perf_counter()
    array = dask.array.from_zarr(zarr.open(tifffile.imread(slide, aszarr=True, level=0), mode="r"))
    image = ngff_zarr.to_ngff_image(array.rechunk((2048, 2048, 3)), dims=("y", "x", "c"))
    shrink = ngff_zarr.Methods.ITKWASM_BIN_SHRINK
    scales = ngff_zarr.to_multiscales(image, scale_factors=[2, 4, 8], method=shrink, chunks=512)
    ngff_zarr.to_ngff_zarr(out, scales, version="0.5")
    return time.perf_counter() - began


def with_ome_zarr(slide: str, out: str) -> float:
    """Its writer, fed lazily."""
    import dask.array
    import tifffile
    import zarr
    from ome_zarr.writer import write_image

    began = time.perf_counter()
    array = dask.array.from_zarr(zarr.open(tifffile.imread(slide, aszarr=True, level=0), mode="r"))
    array = array.rechunk((2048, 2048, 3)).transpose(2, 0, 1)
    write_image(
        array,
        zarr.open_group(out, mode="w"),
        axes="cyx",
        storage_options={"chunks": (3, 512, 512)},
    )
    return time.perf_counter() - began


def with_vips(slide: str, out: str) -> float:
    """Pyramidal TIFF, lossless as ours: zstd where this libvips has it, else deflate."""
    import pyvips

    began = time.perf_counter()
    options = {"tile": True, "tile_width": 512, "tile_height": 512, "pyramid": True, "bigtiff": True}
    image = pyvips.Image.new_from_file(slide, access="sequential")
    try:
        image.tiffsave(out, compression="zstd", level=1, **options)
    except pyvips.Error:
        image = pyvips.Image.new_from_file(slide, access="sequential")
        image.tiffsave(out, compression="deflate", level=1, **options)
    return time.perf_counter() - began


TOOLS = {"ngff-zarr": with_ngff_zarr, "ome-zarr": with_ome_zarr, "vips": with_vips}


if __name__ == "__main__":
    main(*sys.argv[1:])
