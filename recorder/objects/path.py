"""An address in an object store where a path is asked for: `s3://bucket/prefix/NAME`."""

from __future__ import annotations

import os
from pathlib import Path, PosixPath

from recorder.errors import NoArchive
from recorder.objects.url import SCHEMES, BadUrl, is_url, read_url


class ObjectPath(PosixPath):
    """The URL of an object, or of a prefix, that goes wherever a path goes: it is joined, split and compared like one.

    It opens nothing: what reads it is `recorder.archive.bucket.Bucket`.
    """

    def __str__(self) -> str:
        text = super().__str__()  # which has a single slash wherever there were several
        scheme, slash, rest = text.partition(":/")
        if not slash or scheme not in SCHEMES:
            return text  # relative to another one
        return f"file:///{rest}" if scheme == "file" else f"{scheme}://{rest}"


def to_path(text: str | os.PathLike[str]) -> Path:
    """Return a path; an `ObjectPath` where the text is a URL. Raise `NoArchive` for one that cannot be used."""
    if isinstance(text, ObjectPath):
        return text
    text = os.fspath(text)  # of a Path that was made of a URL, the text has lost a slash, which is said
    if not is_url(text):
        return Path(text)
    try:
        return ObjectPath(str(read_url(text)))
    except BadUrl as error:
        raise NoArchive(f"{text}: {error}") from error
