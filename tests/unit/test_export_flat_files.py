"""`recorder export --layout flatfile`: the vendor's names, columns and numbers; whole, once, never with less than before."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from shutil import rmtree

import pytest
from archives import FaultyDisk, Killed
from click.testing import CliRunner
from recorded_events import begin, record, trade

from recorder.archive.disk import Disk
from recorder.cli.export import command
from recorder.errors import NoRoom, RecorderError
from recorder.export.flat_columns import FLAT_FILES, flat_day
from recorder.export.flat_files import FlatFiles
from recorder.export.layout import FLATFILE, HIVE
from recorder.export.ledger import UNFINISHED, Ledger
from recorder.export.session import Choice, Export, Joined
from recorder.tables.sealed import open_sealed

MS = 1_795_237_802_335
DAY = "2026/11/2026-11-21.csv.gz"
NS = MS * 1_000_000
EVENTS = {
    (
        "stocks",
        "T",
    ): '{"ev":"T","sym":"A","x":4,"i":"71675222901845","z":1,"p":157.350,"s":10,"ds":"10.5","c":[12,37],'
    f'"t":{MS},"pt":{MS - 1},"q":3372,"trfi":202,"trft":{MS + 1}}}',
    (
        "stocks",
        "Q",
    ): '{"ev":"Q","sym":"A","bx":11,"bp":164.28,"bs":100,"ax":8,"ap":180,"as":2,"c":1,"i":[604],'
    f'"t":{MS},"q":79497,"z":1}}',
    (
        "stocks",
        "AM",
    ): '{"ev":"AM","sym":"GTE","v":4110,"dv":"4110.25","o":0.4488,"c":0.4486,"h":0.4489,"l":0.4486,'
    f'"n":6,"s":{MS},"e":{MS + 60_000}}}',
    (
        "options",
        "T",
    ): f'{{"ev":"T","sym":"O:SPY230327P00390000","x":65,"p":11.82,"s":2,"c":[227],"t":{MS},"q":7}}',
    (
        "options",
        "Q",
    ): '{"ev":"Q","sym":"O:SPY230327P00390000","bx":302,"ax":303,"bp":9.71,"ap":9.81,"bs":17,"as":24,'
    f'"t":{MS},"q":844090872}}',
    (
        "options",
        "AM",
    ): '{"ev":"AM","sym":"O:SPY230327P00390000","v":200,"o":11.82,"c":9.83,"h":11.82,"l":8.09,'
    f'"s":{MS},"e":{MS + 60_000}}}',
    (
        "indices",
        "AM",
    ): f'{{"ev":"AM","sym":"I:SPX","o":4000,"c":4001.5,"h":4002,"l":3999,"s":{MS},"e":{MS + 60_000}}}',
    (
        "crypto",
        "XT",
    ): f'{{"ev":"XT","pair":"BTC-USD","p":33021.9,"s":4.522e-05,"c":[2],"i":"1","x":1,"t":{MS}}}',
    (
        "crypto",
        "XA",
    ): f'{{"ev":"XA","pair":"BTC-USD","v":951.6,"o":9687.1,"c":9687.1,"h":9687.1,"l":9687.1,"s":{MS}}}',
    ("forex", "C"): f'{{"ev":"C","p":"EUR/USD","x":48,"a":1.1,"b":1.09,"t":{MS}}}',
    (
        "forex",
        "CA",
    ): f'{{"ev":"CA","pair":"EUR/USD","v":3,"o":1.1,"c":1.2,"h":1.3,"l":1,"s":{MS},"e":{MS + 60_000}}}',
}
FILES = {
    "us_stocks_sip/trades_v1": f"""\
ticker,conditions,correction,exchange,id,participant_timestamp,price,sequence_number,sip_timestamp,size,tape,trf_id,trf_timestamp
A,"12,37",0,4,71675222901845,{NS - 1_000_000},157.35,3372,{NS},10.5,1,202,{NS + 1_000_000}
""",
    "us_stocks_sip/quotes_v1": f"""\
ticker,ask_exchange,ask_price,ask_size,bid_exchange,bid_price,bid_size,conditions,indicators,participant_timestamp,\
sequence_number,sip_timestamp,tape,trf_timestamp
A,8,180,2,11,164.28,100,1,604,,79497,{NS},1,0
""",
    "us_stocks_sip/minute_aggs_v1": f"""\
ticker,volume,open,close,high,low,window_start,transactions
GTE,4110.25,0.4488,0.4486,0.4489,0.4486,{NS},6
""",
    "us_options_opra/trades_v1": f"""\
ticker,conditions,correction,exchange,price,sip_timestamp,size
O:SPY230327P00390000,227,0,65,11.82,{NS},2
""",
    "us_options_opra/quotes_v1": f"""\
ticker,ask_exchange,ask_price,ask_size,bid_exchange,bid_price,bid_size,sequence_number,sip_timestamp
O:SPY230327P00390000,303,9.81,24,302,9.71,17,844090872,{NS}
""",
    "us_options_opra/minute_aggs_v1": f"""\
ticker,volume,open,close,high,low,window_start,transactions
O:SPY230327P00390000,200,11.82,9.83,11.82,8.09,{NS},
""",
    "us_indices/minute_aggs_v1": f"ticker,open,close,high,low,window_start\nI:SPX,4000,4001.5,4002,3999,{NS}\n",
    "global_crypto/trades_v1": f"""\
ticker,conditions,exchange,id,participant_timestamp,price,size
X:BTC-USD,2,1,1,{NS},33021.9,4.522e-05
""",
    "global_crypto/minute_aggs_v1": f"""\
ticker,volume,open,close,high,low,window_start,transactions
X:BTC-USD,951.6,9687.1,9687.1,9687.1,9687.1,{NS},
""",
    "global_forex/quotes_v1": f"""\
ticker,ask_exchange,ask_price,bid_exchange,bid_price,participant_timestamp
C:EUR-USD,48,1.1,48,1.09,{NS}
""",
    "global_forex/minute_aggs_v1": f"""\
ticker,volume,open,close,high,low,window_start,transactions
C:EUR-USD,3,1.1,1.2,1.3,1,{NS},
""",
}


def export(archive: Path, dest: Path, disk: Disk | None = None) -> Joined:
    """Export what is sealed as flat files."""
    disk = disk or Disk()
    with Ledger(dest, FLATFILE, disk) as ledger:
        types = frozenset(code for _, code in FLAT_FILES)
        Export(ledger, Choice(types), disk=disk).run(open_sealed(archive))
        return FlatFiles(ledger, disk).run()


def flat_files(dest: Path) -> dict[str, str]:
    """Return the flat files that readers see."""
    return {
        str(path.relative_to(dest)): gzip.decompress(path.read_bytes()).decode()
        for path in sorted(dest.rglob("*.csv.gz"))
    }


def test_the_vendors_columns(tmp_path: Path) -> None:
    """Of each feed and type that has flat files: the vendor's folder, columns and units; of others, no file."""
    assert EVENTS.keys() == FLAT_FILES.keys()
    archive = begin(tmp_path / "archive", split_per_type=False)
    for (feed, _), event in EVENTS.items():
        record(archive, [event.encode()], feed)
    record(archive, [b'{"ev":"LULD","T":"A","h":1,"l":1,"t":1}', b'{"ev":"ZZ"}'])
    record(archive, [b'{"ev":"T","sym":"ESZ6","p":"24445.00","s":1,"t":1}'], "futures")
    archive.close()
    result = CliRunner().invoke(
        command, [str(archive.folder), "--to", str(tmp_path / "flat"), "--layout", "flatfile", "--json"]
    )
    assert result.exit_code == 0
    assert json.loads(result.stdout)["joined"]["rows"] == len(EVENTS)
    assert flat_files(tmp_path / "flat") == {f"{folder}/{DAY}": text for folder, text in FILES.items()}


def test_a_day_gains_records(tmp_path: Path) -> None:
    """Rows are sorted by ticker and time; a day that gains records has all of them, and one that does not stays as it is."""
    archive = begin(tmp_path / "archive")
    record(archive, [trade("B", MS + 2, "1", "1"), trade("A", MS + 3, "1.50", "1")])
    archive.writer.rotate("size")
    dest = tmp_path / "flat"
    assert export(archive.folder, dest) == (1, 1, 2)
    [file] = dest.rglob("*.csv.gz")
    inode = file.stat().st_ino
    assert export(archive.folder, dest) == (0, 0, 0)
    assert file.stat().st_ino == inode
    record(archive, [trade("A", MS + 1, "1", "1")])
    archive.close()
    assert export(archive.folder, dest) == (1, 2, 3)
    lines = list(csv.DictReader(flat_files(dest)[f"us_stocks_sip/trades_v1/{DAY}"].splitlines()))
    assert [(line["ticker"], int(line["sip_timestamp"]) - NS) for line in lines] == [
        ("A", 1_000_000),
        ("A", 3_000_000),
        ("B", 2_000_000),
    ]
    assert [line["price"] for line in lines] == ["1", "1.5", "1"]


def test_days_are_those_of_the_market() -> None:
    """What comes in the evening of New York is of its day, in summer and in winter; currencies have the days of UTC."""
    november = 20_778  # 2026-11-21
    midnight_ms = november * 86_400_000
    assert flat_day("stocks", midnight_ms + 5 * 3_600_000 - 1) == november - 1
    assert flat_day("stocks", midnight_ms + 5 * 3_600_000) == november
    july_ms = (november - 140) * 86_400_000
    assert flat_day("options", july_ms + 4 * 3_600_000 - 1) == november - 141
    assert flat_day("options", july_ms + 4 * 3_600_000) == november - 140
    assert flat_day("crypto", midnight_ms) == november
    folder, end_ms = "feed=stocks/type=T/date=2026-11-21", midnight_ms + 86_400_000
    for layout, hours in ((HIVE, 2), (FLATFILE, 7)):
        assert not layout.is_over(folder, end_ms + hours * 3_600_000)
        assert layout.is_over(folder, end_ms + hours * 3_600_000 + 1)


def test_a_kill_at_every_step(tmp_path: Path) -> None:
    """Whatever step is the last one, a flat file is whole or not there, and the next export comes to the same."""
    archive = begin(tmp_path / "archive")
    record(archive, [trade("A", MS, "1", "1")])
    archive.close()
    export(archive.folder, tmp_path / "whole")
    whole = flat_files(tmp_path / "whole")
    calls = 0
    while True:
        dest, disk = tmp_path / f"killed-{calls}", FaultyDisk()
        disk.calls_left = calls
        try:
            export(archive.folder, dest, disk)
        except Killed:
            disk.kill()
        else:
            break
        assert flat_files(dest) in ({}, whole)
        export(archive.folder, dest)
        assert flat_files(dest) == whole
        assert list((dest / UNFINISHED).iterdir()) == []
        calls += 1
    assert calls > 20


def test_a_flat_file_never_loses_what_it_has(tmp_path: Path) -> None:
    """Where what it was made of is gone, and the archive has it no more, it stays as it is, and that is said."""
    archive = begin(tmp_path / "archive")
    record(archive, [trade("A", MS, "1", "1")])
    archive.close()
    dest = tmp_path / "flat"
    export(archive.folder, dest)
    before = flat_files(dest)
    rmtree(dest / "_export.parts")
    rmtree(archive.folder)
    archive = begin(tmp_path / "archive")
    archive.close()
    archive.restart()
    record(archive, [trade("B", MS, "1", "1")])
    archive.close()
    with pytest.raises(RecorderError, match="which is gone; restore that file"):
        export(archive.folder, dest)
    assert flat_files(dest) == before


def test_a_full_disk_and_wrong_words(tmp_path: Path) -> None:
    """What cannot be had is said before anything is done, and a full disk leaves no flat file that is not whole."""
    archive = begin(tmp_path / "archive")
    record(archive, [trade("A", MS, "1", "1")])
    archive.close()
    disk = FaultyDisk()
    disk.room_bytes = 300
    with pytest.raises(NoRoom):
        export(archive.folder, tmp_path / "flat", disk)
    assert flat_files(tmp_path / "flat") == {}
    arguments = [str(archive.folder), "--to", str(tmp_path / "other"), "--layout", "flatfile"]
    for more, words in ((["--types", "T,LULD"], "no flat files of LULD"), (["--compact"], "one file a day")):
        result = CliRunner().invoke(command, [*arguments, *more])
        assert (result.exit_code, words in result.stderr) == (2, True)
    assert not (tmp_path / "other" / "us_stocks_sip").exists()
