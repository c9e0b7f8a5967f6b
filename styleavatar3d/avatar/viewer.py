"""One HTML file that shows a GLB anywhere, without a server or a network."""

import base64
import html
import json
import struct
from functools import cache
from pathlib import Path
from typing import Any

from styleavatar3d.avatar.files import write_whole
from styleavatar3d.errors import StyleAvatarError

_STATIC = Path(__file__).parent / "static"
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 0; height: 100vh; display: grid; grid-template-rows: 1fr auto;
  font: 15px/1.5 system-ui, sans-serif; background: light-dark(#eceae6, #17181b); color: light-dark(#333, #ccc); }}
model-viewer {{ width: 100%; height: 100%; --poster-color: transparent; --progress-bar-height: 0; }}
p {{ margin: 0; padding: .8rem 1.2rem; text-align: center; }}
</style></head>
<body>{viewer}<p>{caption}</p>
<script type="module">{script}</script></body></html>
"""


def write_viewer(glb: str | Path, out: str | Path | None = None) -> dict[str, Any]:
    """Write a page that shows the GLB and turns it; by default beside it, with the ending .html."""
    glb = Path(glb)
    data = read_glb(glb)
    out = Path(out) if out else glb.with_suffix(".html")
    caption = html.escape(f"{glb.name} · drag to turn, scroll to come nearer")
    page = _PAGE.format(
        title=html.escape(glb.stem), viewer=viewer_element(data, glb.stem), caption=caption, script=viewer_script()
    )
    write_whole(out, page.encode())
    return {"page": str(out), "bytes": len(page)}


def viewer_element(glb: bytes, alt: str) -> str:
    """The HTML element of the viewer, with the model inside it. The page must hold `viewer_script()` once."""
    return (
        f'<model-viewer src="{data_uri(glb, "model/gltf-binary")}" alt="{html.escape(alt)}" camera-controls '
        'auto-rotate rotation-per-second="24deg" camera-orbit="0deg 84deg auto" interaction-prompt="none" '
        'touch-action="pan-y" shadow-intensity="0.6" disable-tap></model-viewer>'
    )


@cache
def viewer_script() -> str:
    """Google's model-viewer, as a module to be put between script tags."""
    return (_STATIC / "model-viewer.min.js").read_text(encoding="utf-8").rpartition("\n//# sourceMappingURL")[0]


def data_uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def read_glb(path: Path) -> bytes:
    """The bytes of a binary glTF 2.0 file; StyleAvatarError if it is none."""
    try:
        data = path.read_bytes()
        magic, version, length = struct.unpack_from("<4sII", data)
        size, kind = struct.unpack_from("<I4s", data, 12)
        document = json.loads(data[20 : 20 + size])
        if (magic, version, length, kind) != (b"glTF", 2, len(data), b"JSON") or "asset" not in document:
            raise ValueError("its header is wrong")
    except (OSError, struct.error, ValueError) as error:
        raise StyleAvatarError(
            "this file is no GLB",
            got=f"{path} ({error})",
            expected="a binary glTF 2.0 file",
            remedy="make one with: styleavatar3d generate, or styleavatar3d export",
        ) from None
    return data
