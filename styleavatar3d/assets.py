"""Where `data/` and `configs/` are: beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from styleavatar3d.errors import StyleAvatarError


@cache
def assets() -> Path:
    """The folder that holds `data/` and `configs/`."""
    package = Path(__file__).resolve().parent
    for root in (package / "_assets", package.parent):
        if (root / "configs").is_dir() and (root / "data").is_dir():
            return root
    raise StyleAvatarError(
        "the shipped data and configs are missing",
        got=str(package),
        expected="data/ and configs/ beside the package, or styleavatar3d/_assets inside it",
        remedy="install from the repository or from the published wheel",
    )


def shipped(folder: str) -> str:
    """A folder or URL as given, or the one of that name among the shipped files where only they have one."""
    given = "://" in folder or Path(folder).exists() or not (assets() / folder).exists()
    return folder if given else str(assets() / folder)
