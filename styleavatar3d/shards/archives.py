"""Folders and zips of pictures that anybody may have made: bounded, never unpacked, names that stay inside."""

import os
import zipfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.shards.pictures import read_inside

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""what is looked for among files: a picture without a label is a mistake"""
MOST_BYTES = 1 << 30
"""of one file, unpacked"""
_MOST_FILES = 8_000_000
_MOST_RATIO = 1100
"""deflate cannot do better than 1032"""


class Archive(ABC):
    """A tree of files to read from."""

    name: str

    @abstractmethod
    def names(self) -> list[str]:
        """Relative posix paths of all files, sorted."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises StyleAvatarError if it is missing, elsewhere, too large or damaged."""


def open_archive(path: str | os.PathLike[str]) -> Archive:
    """A folder or a zip on this machine."""
    if Path(path).is_dir():
        return Folder(Path(path))
    if Path(path).is_file():
        return Zip(Path(path))
    raise StyleAvatarError("there is no such folder or zip", got=os.fspath(path), expected="a path on this machine")


class Folder(Archive):
    def __init__(self, root: Path):
        self.root, self.name = root.resolve(), str(root)

    def names(self) -> list[str]:
        return sorted(path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())

    def read(self, name: str) -> bytes:
        return read_inside(self.root, name, MOST_BYTES)


class Zip(Archive):
    """A zip that is read in place. What its directory promises is checked before anything is unpacked."""

    def __init__(self, path: Path):
        self.path, self.name = path, str(path)
        with _zip_errors(self.name):
            self.archive = zipfile.ZipFile(path)
        listed = [info for info in self.archive.infolist() if not info.is_dir()]
        if len(listed) > _MOST_FILES:
            raise StyleAvatarError("the zip holds too many files", got=len(listed), expected=f"at most {_MOST_FILES}")
        for name, count in Counter(info.filename for info in listed).most_common(1):
            if count > 1:
                raise StyleAvatarError("the zip holds a file twice", got=name, remedy="keep one of the two")
        self.infos = {check_name(info.filename): info for info in listed}

    def names(self) -> list[str]:
        return sorted(self.infos)

    def read(self, name: str) -> bytes:
        info = self.infos.get(name)
        if info is None:
            raise StyleAvatarError("there is no such file", got=name, expected=f"a file in {self.name}")
        if info.file_size > MOST_BYTES or info.file_size > _MOST_RATIO * info.compress_size + 1024:
            raise StyleAvatarError(
                "a file of the zip is too large",
                got=f"{name}: {info.file_size} bytes",
                expected=f"at most {MOST_BYTES}, and no more than deflate can pack into {info.compress_size}",
            )
        with _zip_errors(f"{self.name}, {name}"), self.archive.open(info) as file:
            data = file.read(info.file_size + 1)
        if len(data) != info.file_size:
            raise StyleAvatarError("a file of the zip has another size than stated", got=f"{name}: {len(data)} bytes")
        return data


class ZipWriter:
    """A zip whose bytes depend on the files only; it appears under its name when it is complete."""

    def __init__(self, path: Path):
        self.path, self.temporary = path, path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> "ZipWriter":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.archive = zipfile.ZipFile(self.temporary, "w", zipfile.ZIP_STORED)
        return self

    def write(self, name: str, data: bytes) -> None:
        info = zipfile.ZipInfo(check_name(name), (1980, 1, 1, 0, 0, 0))
        info.external_attr = 0o644 << 16
        self.archive.writestr(info, data)

    def __exit__(self, kind: object, *_: object) -> None:
        self.archive.close()
        if kind is None:
            self.temporary.replace(self.path)
        else:
            self.temporary.unlink(missing_ok=True)


class FolderWriter:
    """A new folder."""

    def __init__(self, path: Path):
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise StyleAvatarError("something is there already", got=str(path), expected="a new or empty folder")
        self.path = path

    def __enter__(self) -> "FolderWriter":
        return self

    def write(self, name: str, data: bytes) -> None:
        path = self.path / check_name(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def __exit__(self, *_: object) -> None:
        pass


def check_name(name: str) -> str:
    """The name, if it stays inside and means the same on every system. Raises StyleAvatarError otherwise."""
    path = PurePosixPath(name)
    strange = not name.isprintable() or any(character in name for character in '\\:*?"<>|')
    if not path.parts or path.is_absolute() or ".." in path.parts or strange:
        raise StyleAvatarError("a name leaves its archive", got=repr(name), expected="a path such as 00000/a.png")
    return name


@contextmanager
def _zip_errors(name: str) -> Iterator[None]:
    try:
        yield
    except StyleAvatarError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # zipfile raises many kinds on damaged files
        raise StyleAvatarError(f"{name} cannot be read: {error}", expected="a zip", remedy="make it again") from None


Writer = ZipWriter | FolderWriter
