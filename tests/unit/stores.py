"""Stores of both kinds, made by hand: objects as the engine would publish them, without an archive."""

import hashlib
import json
import os
import zlib

import fairlead
from fairlead.shared import site
from fairlead.store import blobs, fingerprint, layers, layout, records
from fairlead.store.layout import Stage, Store
from fairlead.store.records import Record


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def put(store, data):
    digest = sha256(data)
    with Stage(store) as stage:
        blobs.put(store, stage, digest, data)
    return digest


def add_tree(store, diff_ids=("sha256:" + "d" * 64,), files=None):
    """Publish a tree of these files; returns its ChainID."""
    chain = layers.chain_id(tuple(diff_ids))
    where = layers.path(store, chain)
    os.makedirs(f"{where}/rootfs/bin", exist_ok=True)
    for name, data in (files or {"bin/sh": b"#!"}).items():
        with open(f"{where}/rootfs/{name}", "wb") as file:
            file.write(data)
    found = fingerprint.of(f"{where}/rootfs")
    table = {
        "chain": chain,
        "size": 2,
        "entries": 2,
        "layers": list(diff_ids),
        "fingerprint": found.digest,
        "disk_bytes": found.disk_bytes,
    }
    with open(f"{where}/tree.json", "w", encoding="ascii") as file:
        json.dump(table, file)
    return chain


def add_image(store, name, *, used=1000, diff_id="d", files=None, layer=b"compressed"):
    """Publish an image with one layer, last used at that time; returns its record."""
    chain = add_tree(store, (f"sha256:{diff_id * 64}",), files)
    config = put(store, json.dumps({"config of": name}).encode())
    kind = "application/vnd.oci.image.{}.v1+json"
    descriptor = {
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
        "digest": sha256(layer),
        "size": len(layer),
    }
    table = {
        "schemaVersion": 2,
        "mediaType": kind.format("manifest"),
        "config": {"mediaType": kind.format("config"), "digest": config, "size": 9},
        "layers": [descriptor],
    }
    manifest = put(store, json.dumps(table).encode())
    record = Record(name, manifest, manifest, config, chain, 2, "2026-01-01T00:00:00Z")
    with Stage(store) as stage:
        records.write(store, stage, record)
    os.utime(layers.path(store, chain), (used, used))
    return record


def new_site(root):
    """Make an empty site store."""
    store = Store(str(root))
    os.mkdir(store.root, 0o700)
    for folder in site.FOLDERS:
        os.mkdir(store.path(folder), 0o700)
    with open(store.path("version"), "w", encoding="ascii") as file:
        file.write(f"{layout.VERSION}\n")
    return store


def add_layer(store, letter, size=8192):
    """Publish a layer of the site store; returns its HEX."""
    layer, data = letter * 64, letter.encode() * size
    info = site.LayerInfo(
        layer, f"sha256:{layer}", size, f"crc32:{zlib.crc32(data):08x}", 1, size, True, ()
    )
    with open(site.info_path(store, layer), "wb") as file:
        file.write(site.format_info(info))
    with open(site.layer_path(store, layer), "wb") as file:
        file.write(data)
    os.utime(file.name, (1000, 1000))
    return layer


def add_index(store, letter, layer_names, size=4096):
    """Publish an index of layers; returns its HEX."""
    name, data = letter * 64, letter.encode() * size
    digest = f"crc32:{zlib.crc32(data):08x}"
    info = site.IndexInfo(name, size, digest, tuple(layer_names))
    with open(site.index_info_path(store, name), "wb") as file:
        file.write(site.format_info(info))
    with open(site.index_path(store, name), "wb") as file:
        file.write(data)
    os.utime(file.name, (1000, 1000))
    return name


def add_injection(store, letter, chain="sha256:0", profiles=("p",), *, used=1000, size=4096):
    """Publish an injection; returns its HEX."""
    name, data = letter * 64, letter.encode() * size
    digest = f"crc32:{zlib.crc32(data):08x}"
    info = site.InjectionInfo(name, size, digest, chain, profiles, fairlead.__version__)
    with open(site.injection_info_path(store, name), "wb") as file:
        file.write(site.format_info(info))
    with open(site.injection_path(store, name), "wb") as file:
        file.write(data)
    os.utime(file.name, (used, 1000))
    return name


def grant(store, uid, letter, layer_names, *, used=1000, index="", injections=()):
    """Grant a user a manifest, last used at that time; returns the manifest's HEX."""
    manifest = letter * 64
    os.makedirs(site.grants_path(store, uid), exist_ok=True)
    path = site.grant_path(store, uid, manifest)
    named = tuple((name, 4096) for name in injections)
    given = site.Grant(uid, 7, 10, tuple(layer_names), index, injections=named)
    with open(path, "w", encoding="ascii") as file:
        file.write(site.format_grant(given))
    os.utime(path, (used, used))
    return manifest


def lease(store, job, manifest, *, made=None):
    """Lease a manifest to a job, at that time or now."""
    path = site.lease_path(store, job, manifest)
    with open(path, "wb"):
        pass
    if made is not None:
        os.utime(path, (made, made))
