"""What a reload came to, in words for people."""

from __future__ import annotations

from recorder.reload import Outcome, answer_of

BEFORE = " since 2026-11-21T14:30:00.000Z, when tokens had changed"


def outcome(**changes: object) -> Outcome:
    """Return what came of reading files in which nothing had changed, but for `changes`."""
    return Outcome(**{"facts": {}, "problems": {}, "waiting": (), "taken_before": BEFORE, **changes})  # type: ignore[arg-type]


def test_each_subject_has_its_line() -> None:
    """What was taken is named by its variables, tokens and files; all of it is whole."""
    facts = {
        "settings": {"variables": [f"V{number}" for number in range(22)]},
        "key": {},
        "tokens": {"tokens_added": ["ann"], "tokens_removed": []},
        "certificate": {"certificate": "/etc/recorder/tls.pem"},
    }
    answer = answer_of(7, {"the access log": "", "the archive": ""}, outcome(facts=facts))
    assert (answer.asked_ns, answer.is_whole) == (7, True)
    assert answer.lines == (
        "reopened: the access log, the archive",
        f"taken: {', '.join(f'V{number}' for number in range(20))} and 2 more",
        "taken: the key, from the next connection upstream on",
        "taken: tokens; ann added, none removed",
        "taken: the certificate /etc/recorder/tls.pem, from the next connection of a client on",
    )


def test_what_is_refused_is_not_whole_and_what_waits_for_a_restart_is() -> None:
    """A refusal says what to do; variables that a restart takes are named."""
    answer = answer_of(1, {}, outcome(problems={"tokens": "AUTH_TOKENS_FILE: t:2: is odd"}, waiting=["SINK"]))
    assert answer.lines == (
        "refused: AUTH_TOKENS_FILE: t:2: is odd. What was read before stays in use, and a restart would fail: mend it; it "
        "is read again by itself",
        "waits for a restart: SINK",
    )
    assert not answer.is_whole
    assert answer_of(1, {}, outcome(waiting=["SINK"])).is_whole


def test_nothing_new_says_since_when() -> None:
    """A change that was taken by itself a moment ago is not new, and the line says so."""
    assert answer_of(1, {}, outcome()).lines == (f"nothing is new{BEFORE}",)
    assert answer_of(1, {}, None) == (1, (), True)


def test_a_file_that_cannot_be_opened_and_a_defect_are_told() -> None:
    """Neither is whole; what could be opened is named alone."""
    answer = answer_of(1, {"the access log": "No space left on device", "the archive": ""}, outcome())
    assert answer.lines[0] == "reopened: the archive"
    assert answer.lines[-1] == "the access log: No space left on device; it is tried again by itself"
    assert not answer.is_whole
    failed = answer_of(1, {}, outcome(failure="the files were not read again, by a defect"))
    assert failed == (1, ("the files were not read again, by a defect",), False)
