"""Settings are checked when they are set, and the message says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from specreason_graph import SpecReasonConfig
from specreason_graph.cli.options import parse_settings
from specreason_graph.config import make_config, read_config_file
from specreason_graph.errors import ConfigError

BAD: list[tuple[str, Any, str]] = [
    ("threshold", 11, "0 to 9"),
    ("threshold", -1, "0 to 9"),
    ("judge.reduction", "median", "'mean' or 'greedy'"),
    ("judge.threshold", 12, "less than or equal to 9"),
    ("thinking_tokens", 0, "greater than or equal to 1"),
    ("max_steps", 1.5, "valid integer"),
    ("top_p", 0, "greater than 0"),
    ("deadline_seconds", 0, "greater than 0"),
    ("answer_by", "me", "'base' or 'draft'"),
    ("seed", -1, "greater than or equal to 0"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), BAD)
def test_bad_value_names_itself_and_what_is_allowed(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(**parse_settings([f"{name}={value}"]))
    message = str(caught.value)
    assert f"{name} = {value!r}" in message
    assert allowed in message


def test_unknown_name_lists_the_known_ones() -> None:
    listed = r"unknown setting 'treshold'; known settings: judge, threshold.*; did you mean 'threshold'\?"
    with pytest.raises(ConfigError, match=listed):
        make_config(treshold=7)


def test_every_setting_is_described() -> None:
    assert all(field.description for field in SpecReasonConfig.model_fields.values())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.toml", "threshold = 5\njudge = {reduction = 'greedy'}"),
        ("c.json", '{"threshold": 5, "judge": {"kind": "digit", "reduction": "greedy"}}'),
    ],
)
def test_config_file(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    config = make_config(**read_config_file(tmp_path / name))
    assert (config.threshold, config.judge.model_dump()["reduction"]) == (5, "greedy")


@pytest.mark.parametrize(("name", "content", "message"), [
    ("c.toml", b"threshold 5", "cannot be parsed"),
    ("c.json", b"[1]", "holds a list"),
    ("c.toml", b"\xff\xfe", "not UTF-8"),
])  # fmt: skip
def test_broken_config_file(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_config_file(tmp_path / name)


def test_missing_config_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_config_file(tmp_path / "none.toml")


def test_arguments_of_templates_are_set_by_role_on_the_command_line() -> None:
    given = ["base.template.enable_thinking=true", "template.reasoning_effort=low", "threshold=5"]
    assert parse_settings(given) == {
        "template": {
            "base": {"enable_thinking": True, "reasoning_effort": "low"},
            "draft": {"reasoning_effort": "low"},
        },
        "threshold": 5,
    }
    with pytest.raises(ConfigError, match=r"template.*base\.template\.tools is given by this package"):
        make_config(template={"base": {"tools": []}})
    with pytest.raises(ConfigError, match=r"template"):
        make_config(template={"judge": {}})
    with pytest.raises(ConfigError, match=r"unknown setting 'other\.template\.x'"):
        make_config(**parse_settings(["other.template.x=1"]))
