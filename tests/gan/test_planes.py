"""Tri-plane, tri-grid and pyramid are one interface, and one set of weights serves both forms of a backbone."""

import pytest
import torch
import torch.nn.functional as F

from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.gan.backbone import Synthesis, join, upsample
from styleavatar3d.gan.generator import Generator, GeneratorConfig
from styleavatar3d.gan.planes import Planes, to_planes

TINY = GeneratorConfig(z_dim=8, w_dim=8, widths=(8, 8, 8, 8), resolution=16, decoder_width=16, samples=(4, 4))
PYRAMID = TINY.model_copy(update={"levels": "pyramid", "coarsest": 8})


def pair(**changes) -> tuple[Generator, Generator]:
    """A tri-grid and a pyramid with the same weights."""
    grid = Generator(TINY.model_copy(update=changes)).requires_grad_(False)
    pyramid = Generator(PYRAMID.model_copy(update=changes)).requires_grad_(False)
    pyramid.load_state_dict(grid.state_dict())
    return grid, pyramid


def test_a_pyramid_keeps_what_a_grid_adds_up():
    grid, pyramid = pair()
    codes = grid.mapping(torch.randn(2, 8))
    levels = pyramid.planes(codes).levels
    assert [level.shape[1] for level in levels] == [8, 16, 32] and pyramid.config.volume == "pyramid"
    total = levels[0]
    for level in levels[1:]:
        spread = F.interpolate(total.flatten(3).permute(0, 3, 1, 2), scale_factor=2, mode="bilinear")
        total = spread.permute(0, 2, 3, 1).view_as(level) + level
    torch.testing.assert_close(total, grid.planes(codes).levels[0], atol=1e-5, rtol=1e-5)


def smooth_shares(sizes: tuple[int, ...]) -> list[torch.Tensor]:
    """Shares of blocks that all sample one slow function at their texels' centres."""
    found = []
    for size in sizes:
        centre = (torch.arange(size) + 0.5) / size * 2 - 1
        v, u = torch.meshgrid(centre, centre, indexing="ij")
        one = torch.stack([torch.cos(u + 0.5 * k) * torch.cos(1.3 * v - 0.2 * k) for k in range(3 * 16)])
        found.append(one[None] / len(sizes))
    return found


def test_fields_of_grid_and_pyramid_agree_inside_for_smooth_planes():
    """They differ in two ways. Interpolating twice (up-sample, then look up) smooths more than once: an error of
    second order in the texel. And a coarse level fades to zero over the half texel inside the box's faces, where its
    up-sampled form keeps the border's value: up to half of that level's share, at the faces."""
    torch.manual_seed(0)
    grid, pyramid = pair(depths=(1, 1, 1))
    shares = smooth_shares((8, 16, 32))
    one, many = (
        Planes(tuple(to_planes(x, (1, 1, 1)) for x in join([share.clone() for share in shares], smallest)))
        for smallest in (32, 8)
    )
    points = (torch.rand(1, 4000, 3) - 0.5) * 0.8
    inside = points[0].abs().amax(-1) < 0.4 * (1 - 1 / 8)  # half a texel of the coarsest level from every face
    (colors, density), (other, thickness) = grid.renderer.field(one, points), pyramid.renderer.field(many, points)
    spread = density.std()
    assert (colors - other)[0, inside].abs().max() < 0.01
    assert (density - thickness)[0, inside].abs().max() < 0.06 * spread
    assert (density - thickness)[0, ~inside].abs().max() > 0.1 * spread  # the border does differ


def test_a_trained_grid_starts_a_pyramid_close_to_where_it_was():
    torch.manual_seed(0)
    grid, pyramid = pair()
    codes, labels = grid.mapping(torch.randn(2, 8)), orbit_labels(torch.tensor([0.0, 120.0]), torch.zeros(2))
    before = grid.render(grid.planes(codes), labels, 24)
    after = pyramid.render(pyramid.planes(codes), labels, 24)
    assert (before.image - after.image).abs().mean() < 0.25 * before.image.std()


@pytest.mark.parametrize("levels", ["single", "pyramid"])
def test_a_new_resolution_fades_in(levels):
    """At fade 0 the newest level says nothing: the scene is the coarser network's (a pyramid's exactly)."""
    generator = Generator(TINY.model_copy(update={"levels": levels, "coarsest": 8})).requires_grad_(False)
    codes, points = generator.mapping(torch.randn(2, 8)), torch.rand(2, 200, 3) * 0.6 - 0.3
    small = generator.planes(codes, resolution=16)
    unfaded = generator.planes(codes, resolution=32, fade=0.0)
    assert small.resolution == 16 and unfaded.resolution == 32
    (_, density), (_, same) = generator.field(small, points), generator.field(unfaded, points)
    if levels == "pyramid":
        torch.testing.assert_close(same, density)
        assert len(small.levels) == 2 and not unfaded.levels[-1].any()
    else:
        assert (density - same).abs().mean() < 0.1 * density.std()
    faded = [generator.field(generator.planes(codes, resolution=32, fade=f), points)[1] for f in (0.0, 0.5, 1.0)]
    assert not torch.equal(faded[0], faded[1]) and not torch.equal(faded[1], faded[2])


def test_below_its_coarsest_level_a_pyramid_is_one_picture():
    generator = Generator(PYRAMID.model_copy(update={"coarsest": 32}))
    assert [len(generator.planes(generator.mapping(torch.randn(1, 8)), resolution=r).levels) for r in (8, 32)] == [1, 1]


def test_joining_everything_is_the_backbone_itself():
    torch.manual_seed(0)
    synthesis, codes = Synthesis((8, 8, 8), 4, 8).double(), torch.randn(2, 6, 8, dtype=torch.double)
    settings = {"blocks": 3, "fade": 0.3, "dtype": torch.double}
    shares = synthesis.shares(codes, **settings)
    whole = upsample(upsample(shares[0]) + shares[1]) + shares[2]
    assert torch.equal(whole, synthesis(codes, **settings))
    assert [x.shape[-1] for x in join(shares, 4)] == [4, 8, 16] and join(shares, 4)[1] is shares[1]


def test_planes_move_and_split_together():
    planes = Generator(PYRAMID).planes(torch.randn(3, 8, 8))
    assert planes.to(torch.bfloat16).levels[0].dtype == torch.bfloat16
    assert len(planes[1:]) == 2 and torch.equal(planes[1:].levels[2], planes.levels[2][1:])


def test_a_pyramid_survives_its_files(tmp_path):
    generator = Generator(PYRAMID)
    generator.save_pretrained(str(tmp_path))
    loaded = Generator.from_pretrained(str(tmp_path))
    assert loaded.config == PYRAMID and len(loaded.planes(torch.zeros(1, 8, 8)).levels) == 3
