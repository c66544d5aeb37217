"""What there is to say of a slide before anything is done with it, in words for people."""

from microtome.costs import estimate
from microtome.cpu import cores, machine_record
from microtome.options import Options
from microtome.plan import make_plan


def inspect_slide(uri: str, options: Options) -> str:
    """Format, levels, resolution, tissue, and what a run would cost; a line each.

    Raises
    ------
    MicrotomeError
        If a run would refuse the slide, the model or an option.
    """
    plan = make_plan(uri, options)
    slide, mpp = plan.slide, plan.slide.mpp
    costs = estimate(plan, machine_record().instruction_set, cores())
    sizes = " · ".join(f"{level.width_px:,} x {level.height_px:,}" for level in slide.levels)
    resolution = f"{mpp.x:.4g}" if mpp.x == mpp.y else f"{mpp.x:.4g} x {mpp.y:.4g}"
    slide_mm2 = plan.height_px * plan.width_px * plan.pixel_area_um2 / 1e6
    share = plan.tissue.area_px / (plan.height_px * plan.width_px)
    return "\n".join(
        [
            f"{slide.name}  {slide.format} ({slide.reader})",
            f"levels     {sizes} px; {resolution} um/px (from {slide.mpp_source})",
            f"tissue     {share:.0%} ({slide_mm2:,.4g} mm2 of slide, {plan.tissue_mm2:,.4g} mm2 of tissue)",
            f"model      {plan.model.name} {plan.model.version} at {plan.model.mpp:g} um/px "
            f"(level 0 x {plan.scale.factor:g}), {plan.model.precision}: {plan.model.why_precision}",
            f"pixels     {plan.pixels_in_words}",
            f"a run      {costs.shards:,} shards, {costs.shards_with_tissue:,} with tissue; "
            f"{costs.tiles:,} tiles, {costs.network_px / 1e6:,.0f} MP for the network; "
            f"about {costs.duration} on this machine ({cores()} cores), "
            f"{costs.disk_bytes / 1e9:,.2g} GB of disk, peak {costs.worker_bytes / 1e9:.2g} GB a worker",
        ]
    )
