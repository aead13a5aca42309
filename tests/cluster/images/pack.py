#!/usr/bin/env python3
"""Packs an image without a daemon: a docker-archive of one layer, as a `FROM scratch` build makes it.

The source is a folder, which becomes the root, or one program, which becomes /NAME and the entrypoint.
Owners, times and modes are fixed, so that the same files give the same bytes wherever they are packed.
"""

import argparse
import hashlib
import io
import json
import os
import pathlib
import platform
import tarfile

EPOCH = "1970-01-01T00:00:00Z"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def members(source: pathlib.Path):
    """What goes in, as (path in the image, path here), folders before what is in them."""
    if source.is_file():
        return [(source.name, source)]
    found = sorted(source.rglob("*"), key=lambda path: path.relative_to(source).parts)
    return [(path.relative_to(source).as_posix(), path) for path in found]


def normal(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """The entry without what differs from machine to machine: whose, when, and the umask."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    if not entry.issym():
        entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry


def layer(source: pathlib.Path) -> bytes:
    """The files as an uncompressed tar: no compressor's version changes its digest."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, path in members(source):
            entry = normal(tar.gettarinfo(path, arcname=name))
            # A hard link to an earlier member would depend on how the files came here.
            if entry.islnk():
                entry.type, entry.linkname, entry.size = tarfile.REGTYPE, "", path.stat().st_size
            with path.open("rb") if entry.isreg() else io.BytesIO() as content:
                tar.addfile(entry, content)
    return out.getvalue()


def config(diff_id: str, entrypoint: list[str], user: str) -> bytes:
    """The image's configuration, by the OCI image specification."""
    return json.dumps(
        {
            "architecture": ARCHITECTURES[platform.machine()],
            "os": "linux",
            "created": EPOCH,
            "config": {"User": user, "Entrypoint": entrypoint, "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id}"]},
            "history": [{"created": EPOCH}],
        },
        sort_keys=True,
    ).encode()


def archive(reference: str, layer_bytes: bytes, config_bytes: bytes) -> bytes:
    """Layer and configuration under their digests, and the manifest that names them."""
    layer_name = hashlib.sha256(layer_bytes).hexdigest() + ".tar"
    config_name = hashlib.sha256(config_bytes).hexdigest() + ".json"
    manifest = [{"Config": config_name, "RepoTags": [reference], "Layers": [layer_name]}]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in (
            (config_name, config_bytes),
            (layer_name, layer_bytes),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reference", help="the image's name and tag")
    parser.add_argument("archive", type=pathlib.Path, help="where to write it")
    parser.add_argument("source", type=pathlib.Path, help="a folder or a program")
    parser.add_argument("--user", default="65532:65532", help="who runs it: UID:GID")
    parser.add_argument("--entrypoint", nargs="+", help="what runs; of a program, itself")
    args = parser.parse_args()

    entrypoint = args.entrypoint or ([f"/{args.source.name}"] if args.source.is_file() else [])
    content = layer(args.source)
    described = config(hashlib.sha256(content).hexdigest(), entrypoint, args.user)
    packed = archive(args.reference, content, described)
    # Whole or not at all: an interrupted run leaves no half of an image behind.
    part = args.archive.with_suffix(".part")
    part.write_bytes(packed)
    os.replace(part, args.archive)
    print(f"{args.reference}  {len(packed) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
