"""The benchmark tables by name."""

from typing import Any

from styleavatar3d.errors import StyleAvatarError

TABLES = ("figures", "loader", "models", "ops", "synthesis")


def run(table: str = "ops", repeats: int = 5) -> dict[str, Any]:
    """Measure one table: prints it and returns its numbers."""
    if table not in TABLES:
        raise StyleAvatarError("there is no such table", got=table, expected=", ".join(TABLES))
    if repeats < 1:
        raise StyleAvatarError("a median needs measurements", got=repeats, expected="--repeats of at least 1")
    if table == "figures":
        from styleavatar3d.bench import figures

        return figures.run(repeats)
    if table == "loader":
        from styleavatar3d.bench import loader

        return loader.run(repeats)
    if table == "models":
        from styleavatar3d.bench import models

        return models.run()
    if table == "synthesis":
        from styleavatar3d.bench import synthesis

        return synthesis.run(repeats)
    from styleavatar3d.bench import ops

    return ops.run(repeats)
