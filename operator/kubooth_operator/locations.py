"""Locations that jobs name: `s3://bucket/key`, `file:///path` and `file:path` beside the manifest. Pure text.

A location is brought into one form before it is compared or handed on, so that no spelling gets around a prefix.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from urllib.parse import quote, unquote


class LocationError(ValueError):
    """A sentence about a location that cannot be used."""


def absolute(uri: str, base_uri: str | None) -> str:
    """The location in its one form; a trailing slash stays. A relative `file:` one is taken from `base_uri`.

    Raises LocationError.
    """
    scheme, colon, rest = uri.partition(":")
    if scheme == "s3" and rest.startswith("//"):
        return _s3(uri, rest)
    if scheme == "file" and colon:
        return _file(uri, rest, base_uri)
    raise LocationError("must start with s3:// (a bucket) or file: (a folder of this machine)")


def is_under(uri: str, prefix: str) -> bool:
    """Whether an absolute location is the prefix or lies below it, by whole path segments."""
    return _segments(uri)[: len(_segments(prefix))] == _segments(prefix)


def is_under_any(uri: str, prefixes: Iterable[str], *, namespace: str) -> bool:
    """Whether an absolute location lies under one of the prefixes, `{namespace}` being the job's."""
    return any(is_under(uri, prefix.replace("{namespace}", namespace)) for prefix in prefixes)


def _s3(uri: str, rest: str) -> str:
    bucket, _, key = rest.removeprefix("//").partition("/")
    if not bucket:
        raise LocationError("must name a bucket, as in s3://bucket/folder/")
    segments = key.removesuffix("/").split("/") if key else []
    if any(segment in {"", ".", ".."} for segment in segments):
        raise LocationError("must not hold empty path segments, '.' or '..'")
    return uri


def _file(uri: str, rest: str, base_uri: str | None) -> str:
    if rest.startswith("//") and not rest.startswith("///"):
        host = rest.removeprefix("//").partition("/")[0]
        if host != "localhost":
            raise LocationError(
                f"{uri} names a machine: write file:{rest.removeprefix('//')} for a folder beside the manifest, or "
                f"file:///{rest.removeprefix('//')} for an absolute path"
            )
        rest = rest.removeprefix("//localhost")
    path = unquote(rest.removeprefix("//"))
    if "\0" in path:
        raise LocationError("must not hold a null character")
    if path.startswith("/"):
        if ".." in path.split("/"):
            raise LocationError("must not hold '..'")
    elif not path:
        raise LocationError("must name a folder or file, as in file:photos/")
    elif base_uri is None:
        raise LocationError(f"{uri} is relative to a manifest's folder, which is not known here: use s3://")
    else:
        path = posixpath.join(unquote(base_uri.removeprefix("file://")), path)
    normal = "/" + posixpath.normpath(path).lstrip("/")
    return "file://" + quote(normal + "/" if path.endswith("/") and normal != "/" else normal)


def _segments(uri: str) -> list[str]:
    scheme, _, rest = uri.partition("://")
    return [scheme, *(segment for segment in (unquote(rest) if scheme == "file" else rest).split("/") if segment)]
