"""What the report shows of slide and nuclei: drawn as soon as all nuclei are known, not last of all."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pydantic import Base64Bytes, TypeAdapter

from microtome.grid import Window
from microtome.nuclei import Nuclei
from microtome.plan import Plan
from microtome.report import figures
from microtome.report.density import Region, choose_regions, measure_density
from microtome.report.distrust import Caution, check_focus
from microtome.report.shard_stats import ShardStats
from microtome.slides.base import Slide

OVERVIEW_KEY = "report/overview.png"

type NucleiIn = Callable[[Window], Nuclei]
"""Nuclei of the result whose outline may reach into a window (level-0 px); more do no harm."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pictures:
    """Ready for the page."""

    overview: Base64Bytes
    """JPEG: the density as colour over the slide."""
    overview_height: int
    overview_width: int
    top: float
    """Nuclei per mm2 at the end of the scale."""
    fields: tuple[figures.Field, ...]
    focus: Caution
    """What was found when its fields were read."""

    def to_bytes(self) -> bytes:
        return _PICTURES.dump_json(self)

    @staticmethod
    def from_bytes(text: bytes) -> "Pictures":
        return _PICTURES.validate_json(text)


_PICTURES: TypeAdapter[Pictures] = TypeAdapter(Pictures)


def draw_pictures(plan: Plan, stats: ShardStats, slide: Slide, nuclei_in: NucleiIn) -> tuple[Pictures, bytes]:
    """The page's pictures, and the overview as a PNG file of its own.

    `stats` are those of the whole slide (`ShardStats.merge`).
    """
    # Decoding and drawing hold no lock: a core may do one half while another does the other.
    with ThreadPoolExecutor(1, thread_name_prefix="pictures") as beside:
        focus = beside.submit(check_focus, plan, slide.read_each)
        density = measure_density(plan, stats)
        overview = figures.read_overview(slide, slide.levels)
        regions = choose_regions(plan, density, overview.stained)
        picture = figures.draw_density(overview, density)
        sheet = beside.submit(draw_sheet, picture, overview, regions, density.top)
        fields = tuple(
            figures.show_region(plan, region, slide, nuclei_in(region.window)) for region in regions
        )
        pictures = Pictures(
            overview=figures.jpeg(picture),
            overview_height=picture.shape[0],
            overview_width=picture.shape[1],
            top=density.top,
            fields=fields,
            focus=focus.result(),
        )
    return pictures, sheet.result()


def draw_sheet(
    picture: figures.Rgb, overview: figures.Overview, regions: Sequence[Region], top: float
) -> bytes:
    """The overview as a PNG file of its own."""
    return figures.png(figures.draw_standalone(picture, overview, regions, top))
