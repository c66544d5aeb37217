"""What every reader of slides keeps, whatever the format."""

from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import pytest

from microtome.arrays import Pixels
from microtome.grid import Window
from microtome.slides import Slide, open_slide


def whole(slide: Slide, level: int) -> Pixels:
    finest = slide.levels[level]
    return slide.read(level, Window(0, 0, finest.height_px, finest.width_px))


def windows(height_px: int, width_px: int, seed: int, count: int) -> list[Window]:
    """Windows that start and end anywhere, some of them across the edge."""
    random = np.random.default_rng(seed)
    corners = random.integers(-300, [height_px, width_px], (count, 2))
    sizes = random.integers(1, 900, (count, 2))
    return [Window(*map(int, (*c, *(c + s)))) for c, s in zip(corners, sizes, strict=True)]


def expected(everything: Pixels, window: Window) -> Pixels:
    """The window cut from all pixels, white outside: the slow obvious version."""
    out = np.full((3, window.height, window.width), 255, np.uint8)
    inside = window.intersect(Window(0, 0, *everything.shape[1:]))
    if not inside.is_empty:
        rows, cols = inside.within(window)
        out[:, rows, cols] = everything[:, inside.y0 : inside.y1, inside.x0 : inside.x1]
    return out


def test_a_window_of_a_level_is_cut_from_the_whole_and_white_outside_of_it(slide: Slide) -> None:
    for number, level in enumerate(slide.levels):
        everything = whole(slide, number)
        for window in windows(level.height_px, level.width_px, seed=number, count=6):
            assert np.array_equal(slide.read(number, window), expected(everything, window)), window


def test_windows_asked_for_at_once_are_those_read_alone(slide: Slide) -> None:
    for number, level in enumerate(slide.levels):
        wanted = windows(level.height_px, level.width_px, seed=50 + number, count=6)
        wanted += [wanted[0], Window(-90, -80, -10, -10)]
        found = list(slide.read_each(number, wanted))
        assert len(found) == len(wanted)
        for window, pixels in zip(wanted, found, strict=True):
            assert np.array_equal(pixels, slide.read(number, window)), window
    assert list(slide.read_each(0, [])) == []


def test_a_window_far_outside_is_white(slide: Slide) -> None:
    assert slide.read(0, Window(-500, -400, -100, -100)).min() == 255
    far = slide.levels[0].height_px + 5
    assert slide.read(0, Window(far, 0, far + 3, 2)).shape == (3, 3, 2)


def test_a_copied_tile_decodes_alone_to_the_pixels_of_its_place(slide: Slide) -> None:
    level, (tile_height_px, tile_width_px) = slide.levels[0], slide.tile_size_px
    window = Window(0, 0, level.height_px, level.width_px)
    pixels, tiles = slide.read_with_jpeg(window)
    assert np.array_equal(pixels, slide.read(0, window))
    assert tiles == slide.copy_jpeg(window)
    for row, col in list(tiles)[::5]:
        corner = Window(row * tile_height_px, col * tile_width_px, level.height_px, level.width_px)
        place = Window(corner.y0, corner.x0, corner.y0 + tile_height_px, corner.x0 + tile_width_px)
        inside = place.intersect(window)
        tile = imagecodecs.jpeg8_decode(tiles[row, col])[: inside.height, : inside.width]
        assert np.array_equal(tile.transpose(2, 0, 1), pixels[:, *inside.within(window)])


def test_tiles_are_copied_of_jpeg_alone(slide: Slide) -> None:
    are_jpeg = slide.format.split(", ")[-1].startswith("JPEG") and "JPEG 2000" not in slide.format
    by_tiles = slide.reader.startswith(("tifffile", "wsidicom"))
    assert bool(slide.copy_jpeg(Window(0, 0, 1, 1))) == (are_jpeg and by_tiles)


def test_pixels_are_bytes_in_interleaved_memory(slide: Slide) -> None:
    pixels = slide.read(0, Window(10, 20, 74, 120))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (3, 64, 100)
    assert pixels.transpose(1, 2, 0).flags.c_contiguous


def test_levels_shrink_alike_in_both_directions_and_show_the_same_picture(slide: Slide) -> None:
    finest = slide.levels[0]
    assert finest.downsample == 1.0
    means = whole(slide, 0).mean(axis=(1, 2))
    for number, level in enumerate(slide.levels[1:], start=1):
        assert level.downsample > slide.levels[number - 1].downsample
        assert finest.height_px / level.height_px == pytest.approx(level.downsample, rel=0.02)
        assert finest.width_px / level.width_px == pytest.approx(level.downsample, rel=0.02)
        assert np.abs(whole(slide, number).mean(axis=(1, 2)) - means).max() < 12


def test_threads_read_at_once_what_one_reads_alone(slide: Slide) -> None:
    level = slide.levels[0]
    places = windows(level.height_px, level.width_px, seed=9, count=6)
    alone = [slide.read(0, place) for place in places]
    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(lambda place: slide.read(0, place), places))
    assert all(np.array_equal(one, other) for one, other in zip(alone, at_once, strict=True))


def test_it_says_what_it_is(slide: Slide) -> None:
    assert slide.tiles >= 1
    assert ": " in slide.reader
    assert slide.format
    assert slide.bad_tiles == frozenset()
    with open_slide(slide.uri) as again:
        assert again.identity == slide.identity
