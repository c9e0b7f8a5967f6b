"""StyleAvatar3D: text or a picture to a 3D avatar, with everything that trains it.

`AvatarPipeline` makes avatars, `Avatar` is what it returns, `Camera` says from where it is seen. They are imported
when first used, so that `import styleavatar3d` is immediate.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Avatar", "AvatarPipeline", "Camera", "__version__"]

if TYPE_CHECKING:
    from styleavatar3d.avatar.avatar import Avatar
    from styleavatar3d.avatar.pipelines import AvatarPipeline
    from styleavatar3d.camera.cameras import Camera

_HOMES = {
    "Avatar": "styleavatar3d.avatar.avatar",
    "AvatarPipeline": "styleavatar3d.avatar.pipelines",
    "Camera": "styleavatar3d.camera.cameras",
}


def __getattr__(name: str):
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'styleavatar3d' has no attribute '{name}'")
