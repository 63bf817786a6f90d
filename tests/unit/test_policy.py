"""Policy: names of files, include patterns, sampling of quotes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.archive import policy
from recorder.archive.codec import SUFFIXES
from recorder.archive.disk import Disk
from recorder.archive.layout import find_files, free_rotated_path, parse, stamp_of
from recorder.archive.policy import FileNames, Selection, type_word
from recorder.archive.pressure import LoadShedding
from recorder.polygon.rows import Header, Rows
from recorder.polygon.topics import parse_pattern


def events_of(*names: tuple[str, str]) -> Rows:
    return Rows.of("stocks", [(Header(channel, symbol, 1), b"{}") for channel, symbol in names])


@pytest.mark.parametrize(
    ("channel", "word"),
    [
        ("T", "trades"),
        ("XT", "trades"),
        ("Q", "quotes"),
        ("XQ", "quotes"),
        ("C", "quotes"),
        ("A", "second_aggs"),
        ("XAS", "second_aggs"),
        ("AM", "minute_aggs"),
        ("CA", "minute_aggs"),
        ("LULD", "luld"),
        ("NOI", "noi"),
        ("FMV", "fmv"),
        ("V", "values"),
        ("XL2", "level2"),
        ("NEW1", "new1"),
        ("../../etc", "other"),
        ("a b", "other"),
        ("MANIFEST", "other"),
        ("rejected", "other"),
    ],
)
def test_words_of_types(channel: str, word: str) -> None:
    """Known channels have their word, others their code; what could name another file has none of its own."""
    assert type_word(channel) == word


@pytest.mark.parametrize(
    ("template", "split", "active", "manifest"),
    [
        ("/a/polygon.ndjson", False, "/a/polygon.ndjson", "/a/polygon.manifest.ndjson"),
        ("/a/polygon.ndjson", True, "/a/polygon.trades.ndjson", "/a/polygon.manifest.ndjson"),
        ("/a/polygon", True, "/a/polygon.trades", "/a/polygon.manifest.ndjson"),
        ("./p.ndjson", False, "p.ndjson", "p.manifest.ndjson"),
        ("/a//b/../b/p.ndjson", False, "/a/b/../b/p.ndjson", "/a/b/../b/p.manifest.ndjson"),
        ("/a/{cluster}/{type}.ndjson", False, "/a/futures-cme/trades.ndjson", "/a/polygon.manifest.ndjson"),
        ("/a/p.{cluster}.ndjson", True, "/a/p.futures-cme.trades.ndjson", "/a/p.manifest.ndjson"),
        ("/a/p-{type}-{cluster}.ndjson", False, "/a/p-trades-futures-cme.ndjson", "/a/p.manifest.ndjson"),
    ],
)
def test_names_under_a_template(template: str, split: bool, active: str, manifest: str) -> None:
    """Templates are filled in; the manifest stands where the template stops naming clusters and types."""
    names = FileNames(template, split)
    assert names.active("futures/cme", "T") == active
    assert str(names.manifest) == manifest
    assert names.manifest.parent == names.rejects.parent == names.lock.parent == names.folder


def test_unheard_of_types_cannot_open_any_number_of_files() -> None:
    """Past a limit, new types share one file; known ones keep theirs, and nothing is remembered of the others."""
    names = FileNames("/a/polygon.ndjson", split_per_type=True)
    files = {names.active("stocks", f"X{number}") for number in range(1000)}
    assert len(files) == 65
    assert "/a/polygon.other.ndjson" in files
    assert names.active("stocks", "X1") == "/a/polygon.x1.ndjson"
    assert names.active("stocks", "X999") == "/a/polygon.other.ndjson"
    assert names.active("stocks", "T") == "/a/polygon.trades.ndjson"
    assert names.active("stocks", "Y" * 100_000) == "/a/polygon.other.ndjson"
    assert len(names._paths) == 66
    one_file = FileNames("/a/polygon.ndjson", split_per_type=False)
    assert {one_file.active("stocks", f"X{number}") for number in range(1000)} == {"/a/polygon.ndjson"}
    assert len(one_file._paths) == 1


@given(
    st.integers(0, 4_000_000_000_000),
    st.sampled_from(["p.ndjson", "p.trades.ndjson", "p"]),
    st.integers(0, 3),
)
def test_rotated_names_are_read_back(ms: int, name: str, codec: int) -> None:
    """A rotated name tells the active file, the stamp and the codec; stamps sort as times do."""
    active = Path("/nowhere/at/all") / name
    path = free_rotated_path(active, ms, Disk())
    suffix = ["", *SUFFIXES.values()][codec % 3]
    file = parse(path.with_name(path.name + suffix))
    assert file.rotated
    assert (file.active, file.plain, file.stamp) == (active, path, stamp_of(ms))
    assert stamp_of(ms) < stamp_of(ms + 1)
    assert not parse(active).rotated


def test_a_rotated_name_is_never_given_twice(tmp_path: Path) -> None:
    """A name is taken as long as any form of it exists, compressed or not."""
    active = tmp_path / "polygon.ndjson"
    first = free_rotated_path(active, 0, Disk())
    assert first.name == "polygon.19700101T000000000Z.ndjson"
    first.with_name(f"{first.name}.zst").touch()
    second = free_rotated_path(active, 0, Disk())
    assert second.name == "polygon.19700101T000000000Z-1.ndjson"
    second.touch()
    assert free_rotated_path(active, 0, Disk()).name == "polygon.19700101T000000000Z-2.ndjson"


def test_files_of_an_archive_are_found_by_their_names(tmp_path: Path) -> None:
    """Active, rotated, compressed and temporary files belong to the archive; other files and archives do not."""
    stamp = "20261121T051309123Z"
    mine = [
        f"polygon.{stamp}.ndjson.zst",
        f"polygon.{stamp}-1.ndjson",
        f"polygon.{stamp}-2.ndjson.gz.tmp",
        f"polygon.{stamp}-10.ndjson",
        f"polygon.rejected.{stamp}.ndjson",
        "polygon.trades.ndjson",
        "polygon.rejected.ndjson",
        "polygon.ndjson",
    ]
    others = [
        "polygon.manifest.ndjson",
        "polygon.lock",
        "polygon.test.ndjson",
        "polygon.test.manifest.ndjson",
        "polygon.ndjson.1",
        "notes.ndjson",
        "polygon.ndjson.gz",
    ]
    for name in [*mine, *others]:
        (tmp_path / name).touch()
    found = [
        file.path.name for file in find_files(FileNames(str(tmp_path / "polygon.ndjson"), False), Disk())
    ]
    assert sorted(found) == sorted(mine)
    rotated = [name for name in found if stamp in name and "rejected" not in name]
    assert rotated == [
        f"polygon.{stamp}.ndjson.zst",
        f"polygon.{stamp}-1.ndjson",
        f"polygon.{stamp}-2.ndjson.gz.tmp",
        f"polygon.{stamp}-10.ndjson",
    ]


def test_include_patterns_choose_events() -> None:
    """An event is taken if any pattern matches it; no pattern takes everything."""
    events = events_of(("T", "ESZ6"), ("Q", "ESZ6"), ("T", "AAPL"), ("AM", "AAPL"))
    chosen = Selection([parse_pattern("T:ES*"), parse_pattern("*:AAPL")], 1)
    assert chosen.filter(events) == [True, False, True, True]
    assert not chosen.takes_all
    everything = Selection([], 1)
    assert everything.takes_all
    assert everything.filter(events) == [True, True, True, True]


def test_quotes_are_sampled_by_symbol_and_nothing_else_is() -> None:
    """Of each symbol's quotes the first and then every third is kept, over batches; trades are all kept."""
    selection = Selection([], 3)
    events = events_of(("Q", "A"), ("Q", "B"), ("T", "A"), ("Q", "A"))
    assert selection.sample("stocks", events, [True] * 4) == [True, True, True, False]
    assert selection.sample("stocks", events, [True] * 4) == [False, False, True, True]
    assert selection.sample("options", events, [True] * 4) == [True, True, True, False]


def test_quotes_of_all_symbols_are_sampled_together() -> None:
    """Whatever the symbol, the cluster or the channel of quotes, the first and then every third is kept: no more."""
    selection = Selection([], 3, by_symbol=False)
    events = events_of(*[("Q", f"S{number}") for number in range(100)], ("T", "A"))
    kept = [selection.sample(cluster, events, [True] * 101) for cluster in ("stocks", "options")]
    assert [sum(some[:100]) for some in kept] == [34, 33]
    assert [kept[0][0], kept[0][3], kept[1][2]] == [True] * 3
    assert kept[0][100]
    assert kept[1][100]


def test_what_is_filtered_does_not_count_for_sampling() -> None:
    """Quotes that the include patterns leave out stay out, and take no turn."""
    selection = Selection([], 2)
    events = events_of(("Q", "A"), ("Q", "A"), ("Q", "A"))
    assert selection.sample("stocks", events, [False, True, True]) == [False, True, False]


def test_pressure_leaves_out_more_quotes_and_nothing_else() -> None:
    """Of the quotes that sampling keeps, 1 in N, or none; trades stay; undone, all is as before."""
    shedding = LoadShedding()
    selection = Selection([], 1, shedding)
    events = events_of(("Q", "A"), ("T", "A"))
    assert selection.takes_all
    shedding.quotes_kept_one_in = 3
    assert not selection.takes_all
    kept = [selection.sample("stocks", events, [True, True]) for _ in range(6)]
    assert kept == [[True, True], [False, True], [False, True]] * 2
    assert shedding.stats.sampled_out == 4
    shedding.quotes_kept_one_in = 0
    assert selection.sample("stocks", events, [True, True]) == [False, True]
    assert shedding.stats.sampled_out == 5
    shedding.quotes_kept_one_in = 1
    assert selection.takes_all


def test_pressure_and_sampling_multiply() -> None:
    """With 1 in 2 kept already, 1 in 3 of those is 1 in 6; what sampling leaves out anyway is not pressure's doing."""
    shedding = LoadShedding()
    selection = Selection([], 2, shedding)
    events = events_of(("Q", "A"))
    assert [selection.sample("stocks", events, [True])[0] for _ in range(4)] == [True, False, True, False]
    assert shedding.stats.sampled_out == 0
    shedding.quotes_kept_one_in = 3
    kept = [selection.sample("stocks", events, [True])[0] for _ in range(12)]
    assert kept == ([True] + [False] * 5) * 2


def test_sampling_remembers_a_bounded_number_of_symbols(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many symbols come, the number of counts kept is bounded, and the quotes of a symbol are sampled as ever."""
    monkeypatch.setattr(policy, "_QUOTE_COUNTS_MAX", 10)
    selection = Selection([], 3)
    for number in range(100):
        events = events_of(*[("Q", f"S{number}")] * 4)
        assert selection.sample("options", events, [True] * 4) == [True, False, False, True]
        assert len(selection._quotes) <= 10


def test_include_patterns_remember_a_bounded_number_of_symbols(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many symbols come, the number of answers kept is bounded, and each answer is right."""
    monkeypatch.setattr(policy, "_DECISIONS_MAX", 10)
    selection = Selection([parse_pattern("*:S1*")], 1)
    for number in range(100):
        assert selection.filter(events_of(("T", f"S{number}"))) == [str(number).startswith("1")]
        assert len(selection._included) <= 10
