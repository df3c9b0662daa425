"""Nothing secret is in a message, a record, a log or a file: keys, passwords and what a gateway repeats of them."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from specreason_graph import open_pair
from specreason_graph.cli.app import run
from specreason_graph.engines.options import VLLMOptions, make_options
from specreason_graph.engines.redaction import Redactor, public_url
from specreason_graph.errors import ConfigError, EngineError
from specreason_graph.record.signing import Signer, read_public_key
from specreason_graph.runs.launch import make_launch
from tests.support.answering import Asked, Reply, Server, serving
from tests.support.traces import PROBLEMS

QUESTION = PROBLEMS[0].question
KEY, USER, PASSWORD, QUERY = "sk-live/4f9a+77", "operator", "pa$$/wo?rd", "q-81c2d3e4"
OPTIONS = ("--option", "retry_seconds=0", "--option", "timeout_seconds=20")


def forms(secret: str) -> list[bytes]:
    """A secret as it may stand in a file: as it is, in addresses and headers, in JSON, in Base64 and in hexadecimal."""
    raw = secret.encode()
    login = base64.b64encode(f"{USER}:{PASSWORD}".encode())
    found: list[Any] = [
        raw,
        quote(secret, safe="").encode(),
        json.dumps(secret)[1:-1].encode(),
        base64.b64encode(raw),
        raw.hex(),
    ]
    return [each if isinstance(each, bytes) else each.encode() for each in [*found, login.rstrip(b"=")]]


def assert_nowhere(folder: Path, *texts: str, secrets: tuple[str, ...] = (KEY, PASSWORD, QUERY)) -> None:
    """None of the secrets is in any file below a folder, nor in the texts, whatever their case."""
    contents = {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    contents |= {f"text {number}": text.encode() for number, text in enumerate(texts)}
    for where, content in contents.items():
        for secret in secrets:
            for form in forms(secret):
                assert form.lower() not in content.lower(), (where, form, content[:2000])


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    with serving("abacus-base", "abacus-draft") as both:
        yield both


@pytest.fixture
def said(
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Callable[..., tuple[int, list[str]]]:
    """Run a command with all that is logged, that of the HTTP library included; its exit code and what was said."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore", "httpcore.http11", "httpcore.connection"):
        caplog.set_level(logging.DEBUG, name)

    def command(*arguments: str) -> tuple[int, list[str]]:
        capsys.readouterr()
        code = run(list(arguments))
        assert "httpx" in {record.name for record in caplog.records}
        return code, [*capsys.readouterr(), caplog.text, *(str(record.args) for record in caplog.records)]

    return command


def with_secrets(server: Server) -> str:
    """The address of a server with a user, a password and a key in it."""
    return f"http://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{server.port}/v1/?api_key={QUERY}"


def solve(*urls: str) -> list[str]:
    base, draft = urls
    models = ["--base", "abacus-base", "--draft", "abacus-draft", "--engine", "server"]
    return ["solve", QUESTION, *models, "--base-url", base, "--draft-url", draft, *OPTIONS, "--set", "temperature=0"]


def test_what_is_in_an_address_connects_and_is_kept_nowhere(
    servers: list[Server], said: Callable[..., Any], tmp_path: Path
) -> None:
    code, texts = said(*solve(*map(with_secrets, servers)), "--json")
    assert code == 0, texts
    login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    for server in servers:
        assert {asked.headers["authorization"] for asked in server.asked} == {f"Basic {login}"}
        assert all(f"api_key={QUERY}" in asked.path for asked in server.asked)
    assert any(b"127.0.0.1" in file.read_bytes() for file in tmp_path.rglob("*.sqlite*"))
    assert_nowhere(tmp_path, *texts)
    assert_nowhere(tmp_path, *texts, secrets=(USER,))


def echo(asked: Asked, reply: Reply) -> dict[str, Any]:
    """What a careless gateway tells of a request."""
    token = asked.headers["authorization"]
    return {
        "error": {
            "message": f"bad request with {token} / {token.upper()} / {token.split()[1]} / {quote(token, safe='')} / "
            f"{base64.b64encode(token.encode()).decode()} / {list(asked.headers.items())} / {asked.path}",
            "headers": asked.headers,
        }
    }


@pytest.mark.parametrize("credentials", ["key", "address"])
@pytest.mark.parametrize("kind", ["models", "score", "plain", "stream", "event", "fields", "page"])
def test_a_gateway_that_repeats_what_it_was_sent(
    servers: list[Server], kind: str, credentials: str, said: Callable[..., Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("SPECREASON_API_KEY", KEY)

    def change(asked: Asked, reply: Reply) -> Reply:
        told = echo(asked, reply)
        late = asked.kind in ("plain", "stream") and "prompt" in asked.body
        if kind == asked.kind:
            return Reply(
                [told], status=401 if kind in ("models", "plain") else 500, headers={"x-echo": str(told)[:900]}
            )
        if kind == "event" and asked.kind == "stream":
            return Reply([told], is_stream=True)
        if kind == "fields" and late:
            text = told["error"]["message"]
            wrong = {**reply.documents[0], "choices": [{"index": text, "finish_reason": text, text: text}]}
            return Reply([wrong], reply.is_stream)
        if kind == "page" and late:
            return Reply([], headers={"content-type": asked.headers["authorization"]}, raw=str(told).encode())
        return reply

    for server in servers:
        server.change = change
    code, texts = said(*solve(*(map(with_secrets, servers) if credentials == "address" else (s.url for s in servers))))
    assert code != 0
    assert any("error:" in text for text in texts), texts
    assert_nowhere(tmp_path, *texts)


def test_errors_name_no_secret_in_an_address() -> None:
    for url in (f"http://{USER}:{PASSWORD}@h", f"{USER}:{PASSWORD}@h:80", f"ftp://{USER}:{PASSWORD}@h", f"http://h:99999?k={QUERY}",
                f"http://{USER}:{PASSWORD}@[h/?k={QUERY}"):  # fmt: skip
        with pytest.raises(ConfigError, match="is not valid") as caught:
            open_pair("abacus-base", "abacus-draft", kind="server", base_url=url)
        assert not {PASSWORD, QUERY, USER} & {part for part in (PASSWORD, QUERY, USER) if part in str(caught.value)}
    for url, shown in (
        ("http://u:p@h:80/v1?k=v#f", "http://h:80/v1"), ("http://h/v1", "http://h/v1"), ("u:p@h:8000", "h:8000"),
        ("http://h?k=a@b", "http://h"), ("http://u:1/@x@h/y", "http://h/y"), ("http://[::1]:8000", "http://[::1]:8000"),
    ):  # fmt: skip
        assert public_url(url) == shown


def test_a_launch_connects_with_what_it_does_not_keep() -> None:
    url = f"http://{USER}:x@127.0.0.1:1/v1?api_key={QUERY}"
    launch = make_launch("", None, {"engine": "server", "base_url": url, "draft_url": url})
    assert launch.base_url == url
    assert launch.model_dump(mode="json")["draft_url"] == "http://127.0.0.1:1/v1"
    assert QUERY not in launch.model_dump_json() + repr(launch)


@pytest.mark.parametrize(
    "given",
    [
        {"hf_token": KEY}, {"api_key": KEY}, {"ssl_keyfile_password": KEY}, {"--hf-token": KEY}, {"HF_TOKEN": KEY},
        {"model_loader_extra_config": {"s3_secret_access_key": KEY}}, {"x": [{"auth_token": KEY}]},
        {"download": f"https://{USER}:{KEY}@host/x"},
    ],
)  # fmt: skip
def test_engine_options_that_are_secrets_are_refused_and_not_shown(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="is not allowed") as caught:
        make_options(VLLMOptions, {"arguments": given})
    assert KEY not in str(caught.value)
    with pytest.raises(ConfigError, match="takes no options") as caught:
        open_pair("abacus-base", "abacus-draft", base_options=given)  # type: ignore[arg-type]
    assert KEY not in str(caught.value)


def test_engine_options_that_only_sound_like_secrets_are_taken() -> None:
    given = {"tokenizer_mode": "slow", "max_num_batched_tokens": 5, "ssl_keyfile": "k.pem", "logits_processors": ["x"]}
    assert make_options(VLLMOptions, {"arguments": given}).arguments == given


def pem() -> str:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize(
    "cut",
    [
        lambda text: text.splitlines()[1],
        lambda text: "\n".join(text.splitlines()[1:]),
        lambda text: text.replace("-----BEGIN", "----BEGIN"),
        lambda text: text.splitlines()[1] + "\x00",
        lambda text: " " + text.splitlines()[1].replace("+", " "),
    ],
)
def test_a_signing_key_that_cannot_be_read_is_not_shown(
    cut: Callable[[str], str], servers: list[Server], said: Callable[..., Any], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    whole = pem()
    given, secret = cut(whole), whole.splitlines()[1]
    with pytest.raises(ConfigError) as caught:
        Signer.read(given)
    assert secret[16:32] not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        read_public_key(given)
    assert secret[16:32] not in str(caught.value)
    if "\x00" not in given:
        monkeypatch.setenv("SPECREASON_SIGNING_KEY", given)
        code, texts = said(*solve(*(server.url for server in servers)))
        assert code == 2
        assert_nowhere(tmp_path, *texts, secrets=(secret,))


def test_a_whole_signing_key_signs_and_is_kept_nowhere(
    servers: list[Server], said: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = pem()
    monkeypatch.setenv("SPECREASON_SIGNING_KEY", whole)
    code, texts = said(*solve(*(server.url for server in servers)), "--json")
    assert code == 0
    assert_nowhere(tmp_path, *texts, secrets=(whole, whole.splitlines()[1]))


def test_the_name_of_a_missing_key_file_is_shown() -> None:
    for name in ("nowhere.pem", "/etc/keys/a-rather-long-name-of-a-folder/of-keys/signing.key"):
        with pytest.raises(ConfigError, match=f"cannot read the key file {name}: No such file"):
            Signer.read(name)


def test_texts_from_outside_are_shown_without_what_is_not_for_a_line() -> None:
    redactor = Redactor([KEY])
    assert redactor.text("\x1b[2Jx\x07\n\u202ey") == "[2Jx   y"
    assert redactor.text("x" * 10_000) == "x" * 300 + "..."
    assert KEY not in redactor.text(" ".join(KEY))
    assert redactor.text({"authorization": f"Bearer {KEY}"}).count("***") == 1
    assert "other-key-9" not in redactor.text("Authorization: Bearer other-key-9, password=other-key-9")


def test_the_key_of_an_address_goes_before_the_one_in_the_environment(
    servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECREASON_API_KEY", KEY)
    for url, header in ((servers[0].url, f"Bearer {KEY}"), (f"http://u:p@127.0.0.1:{servers[0].port}", "Basic dTpw")):
        with open_pair("abacus-base", kind="server", base_url=url, base_options={"retry_seconds": 0}):
            assert servers[0].asked[-1].headers["authorization"] == header
    servers[0].change = lambda _, reply: Reply([{"error": "Unauthorized"}], status=401)
    with (
        pytest.raises((ConfigError, EngineError), match="401 Unauthorized; set SPECREASON_API_KEY"),
        open_pair("abacus-base", kind="server", base_url=servers[0].url),
    ):
        pass
