"""Archives from strangers: a model in a tar or zip is taken, anything that leads elsewhere or swells is refused."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.file_server import FileServer
from tests.support.tiny_onnx import save_model

from farthing.inference.store import ModelStore
from farthing.inference.store.archives import ArchiveLimits, is_archive, unpack
from farthing.kit.errors import FarthingError, InvalidArgument

Pack = Callable[[Path, dict[str, bytes]], Path]


def pack_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def pack_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def pack_with_gzip(path: Path, files: dict[str, bytes]) -> Path:
    return pack_tar(path, files, "w:gz")


def pack_with_xz(path: Path, files: dict[str, bytes]) -> Path:
    return pack_tar(path, files, "w:xz")


PACKERS = [pack_zip, pack_tar, pack_with_gzip, pack_with_xz]


def extract(archive: Path, limits: ArchiveLimits | None = None) -> dict[str, bytes]:
    target = archive.with_name("out")
    unpack(archive, target, lambda count: None, limits or ArchiveLimits())
    return {
        p.relative_to(target).as_posix(): p.read_bytes()
        for p in target.rglob("*")
        if p.is_file()
    }


@pytest.mark.parametrize("pack", PACKERS)
def test_files_come_out_as_they_went_in(pack: Pack, tmp_path: Path) -> None:
    files = {"model/a.bin": b"x" * 3_000_000, "model/onnx/b.json": b"{}", "c": b""}
    archive = pack(tmp_path / "archive", files)
    assert is_archive(archive)
    assert extract(archive) == files


def test_an_onnx_folder_in_an_archive_is_a_source(
    server: FileServer, store: ModelStore, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    save_model(folder)
    files = {f"tiny/{p.name}": p.read_bytes() for p in folder.iterdir()}
    files["__MACOSX/tiny/._config.json"] = b"junk"
    archive = pack_with_gzip(tmp_path / "archive", files)
    server.serve("tiny-large.bin", archive.read_bytes(), cut_after_bytes=[5000])
    stored = store.add(server.url("tiny-large.bin"))
    assert (stored.name, stored.format) == ("tiny-large", "onnx")
    assert (stored.path / "model.onnx").read_bytes() == files["tiny/model.onnx"]
    assert store.add(archive, "from-disk").digest == stored.digest
    assert list(store.contents.incoming.glob("*")) == []


def test_a_gguf_file_in_an_archive_is_a_source(
    store: ModelStore, gguf_bytes: bytes, tmp_path: Path
) -> None:
    archive = pack_tar(tmp_path / "m.tar", {"m.gguf": gguf_bytes, "README.md": b"hello"})
    assert store.add(archive).path.read_bytes() == gguf_bytes


@pytest.mark.parametrize(
    "name",
    ["../x", "a/../../x", "/tmp/x", "..", "a\\..\\x", "a\nb", "a" * 300, "d/" * 20 + "x"],
)
@pytest.mark.parametrize("pack", [pack_zip, pack_tar])
def test_a_name_that_leads_elsewhere_is_refused(pack: Pack, tmp_path: Path, name: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    archive = pack(inner / "archive", {"fine": b"1", name: b"2"})
    with pytest.raises(InvalidArgument, match="leads elsewhere"):
        extract(archive)
    assert {p.name for p in tmp_path.rglob("*")} <= {"inner", "archive", "out", "fine"}


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    archive = tmp_path / "archive"
    with tarfile.open(archive, "w") as writer:
        member = tarfile.TarInfo("model.gguf")
        member.type, member.linkname = kind, "/etc/hostname"
        writer.addfile(member)
    with pytest.raises(InvalidArgument, match="no plain file"):
        extract(archive)


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    with zipfile.ZipFile(archive, "w") as writer:
        member = zipfile.ZipInfo("model.gguf")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        writer.writestr(member, "/etc/hostname")
    with pytest.raises(InvalidArgument, match="no plain file"):
        extract(archive)


@pytest.mark.parametrize("pack", [pack_zip, pack_with_gzip, pack_with_xz])
def test_an_archive_that_swells_is_refused(pack: Pack, tmp_path: Path) -> None:
    archive = pack(tmp_path / "archive", {"zeros": bytes(40 << 20)})
    limits = ArchiveLimits(expansion_ratio=50, free_expansion_bytes=1 << 20)
    with pytest.raises(InvalidArgument, match="unpacks to more than"):
        extract(archive, limits)
    written = sum(p.stat().st_size for p in (tmp_path / "out").rglob("*"))
    assert written <= limits.most_bytes(archive.stat().st_size) + (1 << 20)


def test_a_zip_that_lies_about_its_sizes_is_refused(tmp_path: Path) -> None:
    archive = pack_zip(tmp_path / "archive", {"zeros": bytes(1 << 20)})
    data = bytearray(archive.read_bytes())
    for place in (data.index(b"PK\x03\x04") + 22, data.index(b"PK\x01\x02") + 24):
        data[place : place + 4] = (10).to_bytes(4, "little")
    archive.write_bytes(data)
    with pytest.raises(InvalidArgument, match="damaged"):
        extract(archive)


def test_too_many_files_and_a_name_twice_are_refused(tmp_path: Path) -> None:
    many = pack_zip(tmp_path / "many", {f"f{number}": b"" for number in range(30)})
    with pytest.raises(InvalidArgument, match="more than 20 files"):
        extract(many, ArchiveLimits(file_count=20))
    (tmp_path / "t").mkdir()
    with tarfile.open(tmp_path / "t/twice", "w") as writer:
        for _ in range(2):
            writer.addfile(tarfile.TarInfo("same"))
    with pytest.raises(InvalidArgument, match="twice"):
        extract(tmp_path / "t/twice")


def test_a_tar_header_of_endless_size_does_not_fill_the_memory(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 1 << 32
    archive.write_bytes(header.tobuf(tarfile.PAX_FORMAT))
    with archive.open("r+b") as file:
        file.truncate(1 << 34)  # sparse
    with pytest.raises(InvalidArgument, match="larger than any model's"):
        extract(archive)


def test_a_tar_member_of_negative_size_ends_with_an_error(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    header = bytearray(tarfile.TarInfo("m").tobuf())
    header[124:136] = b"\xff" * 10 + b"\xfe\x00"  # base 256, below zero
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header[:512])
    archive.write_bytes(bytes(header) + bytes(1024))
    with pytest.raises(InvalidArgument):
        extract(archive)


@settings(max_examples=120, deadline=None)
@given(
    pack=st.sampled_from(PACKERS),
    place=st.integers(0, 5000),
    value=st.binary(min_size=1, max_size=8),
    cut=st.booleans(),
)
def test_damaged_archives_never_raise_anything_but_our_errors(
    pack: Pack, place: int, value: bytes, cut: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    files = {"a/one.bin": b"content" * 40, "a/two.json": b"{}"}
    archive = pack(folder / "archive", files)
    data = bytearray(archive.read_bytes())
    place %= len(data)
    data[place : len(data) if cut else place + len(value)] = value
    archive.write_bytes(data)
    try:
        extract(archive)
    except FarthingError as error:
        assert error.message
    outside = {p.name for p in folder.iterdir()}
    assert outside <= {"archive", "out"}
