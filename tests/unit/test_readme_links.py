"""The README is readable outside the repository: with an address of the repository, its links lead there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest

from hatch_build import ReadmeHook, absolute_links

ROOT: Final = Path(__file__).parents[2]
BASE: Final = "https://forge.example/owner/recorder/blob/v1.0.0"
_LINK: Final = re.compile(r"\]\(([^)\s]+)\)")


def described(monkeypatch: pytest.MonkeyPatch, base: str | None) -> dict[str, Any]:
    """Return what the build says of the package, where README_BASE_URL is `base`."""
    monkeypatch.delenv("README_BASE_URL", raising=False)
    if base is not None:
        monkeypatch.setenv("README_BASE_URL", base)
    metadata: dict[str, Any] = {}
    ReadmeHook(str(ROOT), {}).update(metadata)
    return metadata


@pytest.mark.parametrize("base", [BASE, f"{BASE}/", f" {BASE} "])
def test_every_link_leads_into_the_repository(monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    """Each is absolute, and what follows the address is a file; a picture is the file, not a page that shows it."""
    metadata = described(monkeypatch, base)
    links = _LINK.findall(metadata["readme"]["text"])
    assert len(links) == len(_LINK.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    own = [link for link in links if link.startswith("https://forge.example/")]
    assert len(own) > 20
    for link in own:
        picture = link.endswith(".png")
        begin = f"{BASE.replace('blob', 'raw') if picture else BASE}/"
        assert link.startswith(begin)
        assert (ROOT / link.removeprefix(begin).partition("#")[0]).exists(), link
    assert [link for link in links if not re.match("https?://|#", link)] == []
    assert any(link.endswith(".png") for link in own)
    assert all(url.startswith(BASE) for url in metadata["urls"].values())


def test_without_an_address_the_readme_is_that_of_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """No host is made up: links stay relative, and no URL of the project is claimed."""
    for base in (None, "", " "):
        metadata = described(monkeypatch, base)
        assert metadata["readme"]["text"] == (ROOT / "README.md").read_text(encoding="utf-8")
        assert "urls" not in metadata


@pytest.mark.parametrize("base", ["forge.example/owner/recorder", "https:///x", "https://forge.example/a b"])
def test_what_is_no_address_ends_the_build(monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    """It says what one looks like; links that lead nowhere would be found by readers."""
    with pytest.raises(ValueError, match=r"is no address such as https://HOST/OWNER/NAME/blob/v1\.0\.0"):
        described(monkeypatch, base)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[a](docs/a.md#b)", f"[a]({BASE}/docs/a.md#b)"),
        ("[a](#b) [c](https://c.example/) [d](mailto:d)", "[a](#b) [c](https://c.example/) [d](mailto:d)"),
        (
            "[![a](docs/a.PNG)](docs/a.md)",
            f"[![a](https://forge.example/owner/recorder/raw/v1.0.0/docs/a.PNG)]({BASE}/docs/a.md)",
        ),
        ("```sh\nx[0](y)\n```\n[a](b)\n", f"```sh\nx[0](y)\n```\n[a]({BASE}/b)\n"),
        ("- one\n\n  ```sh\n  x[0](y)\n  ```\n", "- one\n\n  ```sh\n  x[0](y)\n  ```\n"),
    ],
    ids=["heading", "elsewhere", "picture that is a link", "code", "indented code"],
)
def test_what_is_a_link(text: str, expected: str) -> None:
    """Links to files, also around pictures; not those to elsewhere, nor what looks like one in code."""
    assert absolute_links(text, BASE) == expected


@pytest.mark.parametrize(
    ("base", "picture"),
    [
        ("https://h.example/o/r/-/blob/v1", "https://h.example/o/r/-/raw/v1/a.png"),
        ("https://h.example/o/r/src/tag/v1", "https://h.example/o/r/raw/tag/v1/a.png"),
        ("https://docs.example/recorder", "https://docs.example/recorder/a.png"),
    ],
    ids=["GitLab", "Forgejo", "a site"],
)
def test_each_forge_has_its_address_of_a_file(base: str, picture: str) -> None:
    """One address is enough for pages and pictures."""
    assert absolute_links("![a](a.png)", base) == f"![a]({picture})"
