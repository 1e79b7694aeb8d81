"""What one looks for first, and on what it was measured."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from ..figures import NONE, quantity, ratio
from ..machine import Cache, Gpu
from ..result import Profile
from ..table import notes
from .markup import element
from .tables import seconds, three_significant


def summary(profile: Profile) -> ET.Element:
    """The figures one looks for first, and what is to be said of them."""
    sizes, ratios = profile.sizes, profile.versus_dense(profile.rows[0])
    step = profile.rows[0].step
    of, less = ("peak", ratios["peak"]) if ratios["peak"] else ("kept", ratios["total"])
    tiles = [
        ("step, times as fast as dense", ratio(ratios["step"])),
        (f"memory ({of}), times less than dense", ratio(less)),
        ("step of sparselinear", seconds(step.median_s) if step else NONE),
        ("outputs x inputs", f"{sizes.out_features:,} x {sizes.in_features:,}"),
        ("connections", f"{sizes.nnz:,}"),
        ("density", three_significant(profile.density)),
        ("batch", f"{sizes.batch:,}"),
    ]
    pairs = [element("div", element("dt", name), element("dd", text)) for name, text in tiles]
    said = [element("li", note) for note in notes(profile)]
    return element("div", element("dl", *pairs, class_="tiles"), element("ul", *said, class_="notes"))


def setting(profile: Profile) -> ET.Element:
    """What was measured, and on what."""
    found, others, free = profile.machine, profile.other_cores, profile.machine.memory_available_bytes
    could = f"{quantity(profile.limit_bytes)} could be used by a system"
    libraries = (f"torch {found.torch}", found.blas, f"Python {found.python}")
    facts = (
        ("Kernel, and why", profile.kernel),
        ("Numbers", f"{profile.dtype} on {profile.device}, batch {profile.sizes.batch:,}"),
        ("Rounds", f"{profile.rounds}, the systems in turn"),
        ("Measured at", profile.measured_at.replace("T", " ")),
        ("Processor", f"{found.processor}, {found.capability}"),
        ("Cores, threads", f"{found.cores or 'unknown'} logical cores; threads of torch: {found.threads}"),
        ("Caches", "; ".join(map(_cache, found.caches))),
        ("GPU", "" if found.gpu is None else _gpu(found.gpu)),
        ("Memory", could if free is None else f"{quantity(free)} free, {could}"),
        ("Other programs", "" if others is None else f"kept {others:.1f} cores busy meanwhile"),
        ("Libraries", ", ".join(filter(None, libraries))),
        ("System", found.system),
    )
    pairs = [element("div", element("dt", name), element("dd", text)) for name, text in facts if text]
    title = element("h3", "What was measured, and on what")
    return element("section", title, element("dl", *pairs, class_="facts"))


def _gpu(gpu: Gpu) -> str:
    versions = (("driver", gpu.driver), ("CUDA", gpu.cuda), ("Triton", gpu.triton))
    parts = (
        f"{gpu.multiprocessors} multiprocessors",
        f"{quantity(gpu.memory_bytes)} of memory",
        f"second-level cache of {gpu.l2_bytes / 2**20:g} MiB",
        *(f"{name} {version}" for name, version in versions if version),
        f"dense float32 at precision {gpu.float32_precision!r}",
    )
    return ", ".join(parts)


def _cache(cache: Cache) -> str:
    size = cache.size_bytes / 2**20
    text = f"{size:g} MiB" if size >= 1 else f"{size * 1024:g} KiB"
    return f"{cache.name} {text} " + ("a core" if cache.cores == 1 else f"for {cache.cores} cores")
