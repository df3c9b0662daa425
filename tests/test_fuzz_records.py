"""Short forms of ``python -m tests.fuzz.records``: changed, attacked and damaged databases, and runs nobody touched."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.records import Outcome, attack, change_fields, check_clean, command, read_attacked


def check(outcome: Outcome, tried: int) -> None:
    assert outcome.faults == []
    assert outcome.seen.total() >= tried


def test_a_field_that_was_changed_is_found_or_said_not_to_be_covered(place: str) -> None:
    check(change_fields(place, 150), 150)


def test_all_attacks_are_found_or_said_not_to_be_covered(place: str) -> None:
    check(attack(place, every=5), 90)


def test_nothing_is_found_in_runs_that_nobody_touched(place: str) -> None:
    check(check_clean(place, 20), 20)


def test_commands_on_a_damaged_database_fail_in_one_line_and_show_what_is_not_damaged(tmp_path: Path) -> None:
    check(command(tmp_path, 40), 40)


def test_what_is_told_of_an_attacked_run_is_what_was_sealed(place: str) -> None:
    check(read_attacked(place, 15), 15)
