"""Compiled blocks have the gradients of plain ones, and copies and weights know nothing of it.

A script, for a compiler cannot see through the type checks that pytest adds. Without a GPU it compiles for the CPU,
which training refuses because it does not pay.
"""

import copy

import torch
from torch import Tensor

from styleavatar3d.gan.backbone import Block
from styleavatar3d.gan.generator import Generator, GeneratorConfig
from styleavatar3d.gan.state import compile_blocks
from styleavatar3d.runtime.distributed import default_device


def backward(generator: Generator, codes: Tensor, fade: float) -> Tensor:
    generator.zero_grad()
    torch.stack([level.square().mean() for level in generator.planes(codes, fade=fade).levels]).sum().backward()
    return torch.cat([p.grad.flatten() for p in generator.synthesis.parameters() if p.grad is not None])


if __name__ == "__main__":
    torch.manual_seed(0)
    config = GeneratorConfig(z_dim=8, w_dim=8, widths=(8, 8), resolution=8, plane_channels=4, precision="parameter")
    device = default_device()
    generator, codes = Generator(config).to(device), torch.randn(2, 4, 8).to(device)
    names, fades = list(generator.state_dict()), (0.5, 1.0)
    wanted = [backward(generator, codes, fade) for fade in fades]
    compile_blocks(generator, torch.device("cuda"))
    for fade, gradient in zip(fades, wanted, strict=True):
        torch.testing.assert_close(backward(generator, codes, fade), gradient, rtol=1e-4, atol=1e-5)
    compiled = [part for part in generator.modules() if part._compiled_call_impl is not None]
    assert len(compiled) == 2 and all(isinstance(part, Block) for part in compiled)
    assert list(generator.state_dict()) == names
    assert all(part._compiled_call_impl is None for part in copy.deepcopy(generator).modules())
    print("compiled and plain agree")
