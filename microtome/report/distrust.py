"""What a reader should not take at face value: five checks, each said in a sentence, found or not."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

import cv2
import numpy as np

from microtome.arrays import Doubles, Mask, Pixels
from microtome.grid import Window
from microtome.plan import Plan
from microtome.records import StageReport
from microtome.report.shard_stats import ShardStats
from microtome.slides.base import BadTile
from microtome.slides.lots import ReadEach, look_at

EDGE_UM = 20.0
"""So near to the edge, the scan cuts nuclei."""
MOST_AT_EDGE = 0.01
BLUR_FIELDS = 64
BLUR_FIELD_PX = 512
SHARP_FROM = 40.0
"""um**-4. A blur of sigma 0.5 um brings sharp tissue (80 to 700) down to some 25, whether it was
scanned at 0.25 or at 0.5 um/px (measured on a TCGA and an Aperio slide blurred by that)."""
MOST_BLURRED = 0.02
UNUSUAL_Z = 3.5
"""Iglewicz and Hoaglin 1993: modified z-scores beyond this are outliers."""
LEAST_SHARDS = 8
LEAST_SHARD_TISSUE = 0.1
MOST_SEAM_SHARE = 0.01
NAMED = 4
"""Shards and tiles named in a sentence; the rest is counted."""


class Level(StrEnum):
    """How much a finding weighs."""

    FINE = "fine"
    LOOK = "look"


@dataclass(frozen=True, kw_only=True, slots=True)
class Caution:
    """A check and what it found."""

    check: str
    level: Level
    finding: str


def check_all(
    plan: Plan,
    stats: ShardStats,
    stages: Sequence[StageReport],
    focus: Caution,
    bad_tiles: Collection[BadTile],
) -> tuple[Caution, ...]:
    """Every check, in the order of the report; `focus` is what `check_focus` found."""
    return (
        check_edge(plan),
        focus,
        check_counts(plan, stats),
        check_seams(stats, stages),
        check_tiles(bad_tiles),
    )


def check_edge(plan: Plan) -> Caution:
    """Tissue that the slide's edge cuts: the specimen goes on where the scan does not."""
    name = "Tissue at the slide's edge"
    rim_px = round(EDGE_UM / min(plan.slide.mpp.y, plan.slide.mpp.x))
    inner = plan.grid.window.grow(-rim_px)
    mask = plan.tissue_mask
    if not plan.tissue.area_px:
        return Caution(check=name, level=Level.FINE, finding="There is no tissue.")
    inside = 0.0 if inner.is_empty else mask.share_of(inner) * inner.area_px
    share = 1 - inside / plan.tissue.area_px
    return Caution(
        check=name,
        level=Level.LOOK if share > MOST_AT_EDGE else Level.FINE,
        finding=f"{share:.1%} of the tissue lies within {EDGE_UM:.0f} µm of the edge of the scan"
        + ("; the specimen probably goes on beyond it." if share > MOST_AT_EDGE else "."),
    )


def check_focus(plan: Plan, read_each: ReadEach) -> Caution:
    """Fields out of focus, by the variance of the Laplacian against that of the grey values."""
    name = "Sharpness"
    judged = look_at(read_each, _focus_fields(plan), lambda pixels: sharpness(plan, pixels))
    values = [value for value in judged if value is not None]
    if not values:
        return Caution(check=name, level=Level.FINE, finding="No field has enough tissue to judge it.")
    blurred = int((np.array(values) < SHARP_FROM).sum())
    share = blurred / len(values)
    return Caution(
        check=name,
        level=Level.LOOK if share > MOST_BLURRED else Level.FINE,
        finding=f"{blurred:,} of {len(values):,} fields looked at are out of focus ({share:.0%})"
        + ("; nuclei are missed there." if share > MOST_BLURRED else "."),
    )


def sharpness(plan: Plan, pixels: Pixels) -> float | None:
    """Variance of the Laplacian of the stained pixels over their variance, um**-4.

    None where less than a quarter of the field is stained. After Pech-Pacheco et al. 2000,
    doi:10.1109/ICPR.2000.903548; the ratio does not depend on the strength of the stain.
    """
    rgb = np.ascontiguousarray(np.moveaxis(pixels, 0, 2))
    red, green, blue = cv2.split(rgb)
    # numpy's maximum over a last axis of three is forty times slower.
    chroma = cv2.subtract(cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue))
    stained: Mask = np.asarray(chroma) > 20
    if stained.mean() < 0.25:
        return None
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    laplacian = cv2.Laplacian(grey, cv2.CV_32F, ksize=3)
    contrast = float(grey[stained].var())
    return float(laplacian[stained].var()) / contrast / plan.pixel_area_um2**2 if contrast else None


def check_counts(plan: Plan, stats: ShardStats) -> Caution:
    """Shards whose density stands out from the others', by a robust z-score of its square root."""
    name = "Shards with unusual counts"
    mask = plan.tissue_mask
    shares = {shard.index: mask.share_of(shard.window) for shard in plan.grid}
    judged = [shard for shard in plan.grid if shares[shard.index] >= LEAST_SHARD_TISSUE]
    if len(judged) < LEAST_SHARDS:
        finding = f"Too few shards with tissue ({len(judged)}) to say what is usual."
        return Caution(check=name, level=Level.FINE, finding=finding)
    tissue_px = np.array([shares[shard.index] * shard.window.area_px for shard in judged])
    counts = np.array([stats.counts.get(shard.index, 0) for shard in judged])
    # The square root makes the noise of counting the same at any density: half a root of a nucleus.
    scores = _robust_z(np.sqrt(counts / tissue_px), least_sigma=0.5 / np.sqrt(tissue_px))
    odd = sorted(np.flatnonzero(np.abs(scores) > UNUSUAL_Z), key=lambda index: -abs(scores[index]))
    if not odd:
        finding = f"None of {len(judged):,} shards with tissue stands out."
        return Caution(check=name, level=Level.FINE, finding=finding)
    named = ", ".join(
        f"{'many' if scores[index] > 0 else 'few'} at y {window.y0:,} x {window.x0:,}"
        for index in odd[:NAMED]
        for window in [judged[index].window]
    )
    rest = f" and {len(odd) - NAMED:,} more" if len(odd) > NAMED else ""
    finding = f"{len(odd):,} of {len(judged):,} shards with tissue stand out: {named}{rest}."
    return Caution(check=name, level=Level.LOOK, finding=finding)


def check_seams(stats: ShardStats, stages: Sequence[StageReport]) -> Caution:
    """Nuclei that two shards saw and of which one was kept."""
    conflicts = sum(report.seam_conflicts for report in stages)
    share = conflicts / stats.nuclei if stats.nuclei else 0.0
    return Caution(
        check="Overlaps at seams",
        level=Level.LOOK if share > MOST_SEAM_SHARE else Level.FINE,
        finding=f"{conflicts:,} overlaps between neighbouring shards were resolved "
        f"({share:.2%} of the nuclei); the more probable nucleus was kept.",
    )


def check_tiles(bad_tiles: Collection[BadTile]) -> Caution:
    """Tiles of the file that cannot be decoded and were taken as glass."""
    finest = sum(tile.level == 0 for tile in bad_tiles)
    findings = []
    if finest:
        findings.append(
            f"{finest:,} tiles of the slide cannot be decoded and were taken as glass: no nuclei there."
        )
    if coarser := len(bad_tiles) - finest:
        findings.append(
            f"{coarser:,} tiles of the overview in which tissue is sought cannot be decoded and were taken "
            "as glass: tissue there was not looked at."
        )
    finding = " ".join(findings) or "Every tile of the slide could be read."
    return Caution(check="Damaged tiles", level=Level.LOOK if findings else Level.FINE, finding=finding)


def _focus_fields(plan: Plan) -> list[Window]:
    """Up to BLUR_FIELDS fields spread evenly over the cells of the tissue mask."""
    mask = plan.tissue_mask
    rows, cols = np.nonzero(mask.mask)
    if not len(rows):
        return []
    picked = np.unique(np.linspace(0, len(rows) - 1, BLUR_FIELDS * 2).astype(int))
    half = BLUR_FIELD_PX // 2
    fields: dict[tuple[int, int], Window] = {}
    for index in picked:
        y, x = (int(side[index]) * mask.cell_px for side in (rows, cols))
        window = Window(y - half, x - half, y + half, x + half).intersect(plan.grid.window)
        if mask.share_of(window) > 0.5:
            fields.setdefault((y // BLUR_FIELD_PX, x // BLUR_FIELD_PX), window)
    kept = list(fields.values())
    return kept[:: -(-len(kept) // BLUR_FIELDS)] if kept else []


def _robust_z(values: Doubles, least_sigma: Doubles) -> Doubles:
    """Modified z-scores: from the median, in sigmas told from the median absolute deviation."""
    away = values - np.median(values)
    sigma = float(np.median(np.abs(away))) / 0.6745
    return np.asarray(away / np.maximum(sigma, least_sigma))
