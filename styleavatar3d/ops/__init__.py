"""Numerical kernels, each beside a plain PyTorch twin that defines what it means.

Kernels are compiled at first use, never at import; see `_build` for where they are kept and how to switch them off.
"""

from styleavatar3d.ops._fused import fits
from styleavatar3d.ops.composite import Rendering
from styleavatar3d.ops.field import Colors, Decoder, Hidden, sample_field, sample_field_reference
from styleavatar3d.ops.render_planes import March, render_planes, render_planes_reference
from styleavatar3d.ops.sample_planes import sample_planes

__all__ = [
    "Colors",
    "Decoder",
    "Hidden",
    "March",
    "Rendering",
    "fits",
    "render_planes",
    "render_planes_reference",
    "sample_field",
    "sample_field_reference",
    "sample_planes",
]
