"""PURE. What a store says when it does not do what it was asked: as one of our errors, with what to do about it."""

from __future__ import annotations

import re
from typing import Final

from recorder.errors import ObjectDiffers, ObjectMissing, StoreAway, StoreError, StoreRefused
from recorder.words import shortened

_STATUS: Final = re.compile(r"status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>\s*([A-Za-z0-9.]+)\s*</Code>")
_REGION: Final = re.compile(r"<Region>\s*([a-z0-9-]+)\s*</Region>")
_DEBUG: Final = "\n\nDebug source:"
"""Behind it, obstore's errors show their whole inside."""
_CAUSES: Final = (
    (re.compile(r'message: "([^"]+)"'), r"\1"),
    (re.compile(r"failed to lookup address information"), "the name of its host is not known"),
    (re.compile(r"\bTimedOut\b|kind: Timeout"), "it did not answer in time"),
    (
        re.compile(r"UnexpectedEof|IncompleteMessage|IncompleteBody|end of file before message length"),
        "the connection was cut",
    ),
    (re.compile(r"(?i)invalid peer certificate: ?\(?(\w+)"), r"its certificate is not trusted: \1"),
)
_NO_AUTHORITY: Final = "No CA certificates were loaded"
_WORDS_MAX: Final = 200
_KEYS: Final = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_FORBIDDEN: Final = (
    f"the key is wrong ({_KEYS}), or may not do that: give it the policy of docs/object-store.md"
)
"""What an answer without a reason may mean: S3 gives none where it is only asked to look."""
_REFUSALS: Final = {
    "NoSuchBucket": "there is no such bucket: make it, or correct the URL",
    "InvalidBucketName": "that is not a valid bucket name: correct the URL",
    "AccessDenied": "the key may not do that: give it the policy of docs/object-store.md",
    "AllAccessDisabled": "the bucket is closed: ask its owner",
    "InvalidAccessKeyId": f"it does not know the key: correct {_KEYS}",
    "SignatureDoesNotMatch": f"the key is wrong: correct {_KEYS}",
    "ExpiredToken": "the credentials have expired: renew AWS_SESSION_TOKEN, or use a role that renews them",
    "InvalidToken": "the credentials are wrong: correct AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "the clock of this machine is off by more than 15 minutes: set it",
    "QuotaExceeded": "its quota is used up: raise it, or delete something",
    "MethodNotAllowed": "it does not allow that: correct the URL, or AWS_ENDPOINT_URL",
    "InvalidObjectState": "the object is in cold storage: restore it first",
    "KMS.DisabledException": "the key that encrypts the bucket is disabled: enable it",
}
"""What a person must do, by the code of the store's answer."""
_OTHER_REGION: Final = (
    "AuthorizationHeaderMalformed",
    "PermanentRedirect",
    "IllegalLocationConstraintException",
)
_REDIRECTED: Final = "redirect without LOCATION"
"""What obstore says where S3 sends it to another region and does not say where that is."""
_CHECKSUMS: Final = frozenset(
    {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "InvalidPart"}
)
"""What arrived is not what was sent. To send it again helps, unless a program in between alters it."""
_PASSING: Final = frozenset(
    {"SlowDown", "Throttling", "RequestTimeout", "ServiceUnavailable", "InternalError"}
)
_PASSING_STATUSES: Final = (408, 425, 429)


def explained(error: Exception, doing: str, url: str) -> StoreError:
    """Return what `obstore` raised as an error of ours; `doing` is what was tried, as in `put`."""
    text = str(error)
    head, _, inside = text.partition(_DEBUG)
    status = int(found[1]) if (found := _STATUS.search(head)) else 0
    code = found[1] if (found := _CODE.search(text)) else ""
    what = f"cannot {doing} {url}"
    if code in _CHECKSUMS:
        return StoreAway(f"{what}: {code}: the store received other content than was sent; it is tried again")
    if code in _REFUSALS:
        return StoreRefused(f"{what}: {code}: {_REFUSALS[code]}")
    if code in _OTHER_REGION or status == 301 or _REDIRECTED in head:
        region = found[1] if (found := _REGION.search(text)) else "of the bucket"
        return StoreRefused(f"{what}: the bucket is in another region: set AWS_REGION to {region}")
    if status == 412 or type(error).__name__ == "PreconditionError":
        return ObjectDiffers(f"{url} is not the same object any more: another one has taken its place")
    if isinstance(error, FileNotFoundError):
        return ObjectMissing(f"{url} does not exist")
    if _lacks_credentials(head):
        return StoreRefused(
            f"{what}: no credentials were found: set {_KEYS}, or give the machine a role (docs/object-store.md)"
        )
    if status in (401, 403) or isinstance(error, PermissionError):
        return StoreRefused(f"{what}: {code or 'it is forbidden'}: {_FORBIDDEN}")
    if code in _PASSING or status >= 500 or status in _PASSING_STATUSES:
        return StoreAway(f"{what}: the store is busy or out of order ({code or status})")
    if status:
        return StoreRefused(
            f"{what}: the store answers {status} {code}".rstrip() + ": see what its documentation says"
        )
    return StoreAway(f"{what}: {_cause(head, inside)}")


def _lacks_credentials(head: str) -> bool:
    """Return whether it was the machine that was asked for credentials, as is done where nothing else has them."""
    return "169.254.169.254" in head or "metadata.google.internal" in head or "169.254.170.2" in head


def _cause(head: str, inside: str) -> str:
    for pattern, words in _CAUSES:
        found = pattern.search(inside)
        if found:
            return found.expand(words)
    return shortened(" ".join(head.split()), _WORDS_MAX)


def unusable(error: Exception, url: str, *, is_folder: bool) -> StoreRefused:
    """Return why a store cannot be used at all, whatever it would say."""
    if _NO_AUTHORITY in str(error):
        return StoreRefused(
            f"cannot use {url}: this machine trusts no certificate authority: install ca-certificates, or let SSL_CERT_FILE "
            "name a PEM file"
        )
    words = _cause(*str(error).split(_DEBUG, 1)) if _DEBUG in str(error) else str(error)
    advice = "make it, or mount what belongs there" if is_folder else "correct the URL, or the environment"
    return StoreRefused(f"cannot use {url}: {words}: {advice}")
