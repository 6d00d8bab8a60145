"""Secrets are recognised by their name, their form, their place and their exact value; other text stays."""

import time

import pytest

from skyrl_core.redaction import REDACTED, names_secret, redact_arguments, redact_text, redacted, remember_secrets

COMMIT = "0123456789abcdef0123456789abcdef01234567"
"""Forty hexadecimal digits: the form of a commit and of a W&B key."""
HF, OPENAI, GITHUB = "hf_" + "aB3" * 8, "sk-proj-" + "aB3" * 8, "ghp_" + "aB3" * 8


@pytest.mark.parametrize(
    "name",
    [
        "api_key",
        "apiKey",
        "APIKEY",
        "judge.api_key",
        "key",
        "token",
        "hf_token",
        "HF_TOKEN",
        "WANDB_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "password",
        "db_password",
        "authorization",
        "X-Api-Key",
        "x-auth-token",
        "client_secret",
        "credentials",
        "auth",
        "private_key",
        "api_tokens",
        "pwd",
    ],
)
def test_the_name_of_a_secret_is_recognised(name):
    assert names_secret(name)
    assert redacted({name: "x"}) == {name: REDACTED}


@pytest.mark.parametrize(
    "name",
    [
        "max_new_tokens",
        "tokenizer",
        "pad_token",
        "eos_token",
        "per_token",
        "api_key_env",
        "token_file",
        "prompt_column",
        "key_column",
        "answer_key",
        "tokens",
        "keys",
        "stop_tokens",
        "author",
        "monkey",
        "keyword",
        "credentials_path",
        "compact",
    ],
)
def test_other_names_are_not_taken_for_one(name):
    assert redacted({name: "x", "number": 3}) == {name: "x", "number": 3}


def test_secrets_are_found_at_every_depth_of_plain_data():
    found = redacted(
        {
            "headers": {"Authorization": "x", "retries": 3},
            "credentials": {"user": "u", "more": ["p", 1, None]},
            "urls": ["https://a:b@c", {"token": "x"}],
            "command": ["judge", "--api-key", "x", "--port", "1"],
            "text": '{"api_key": "abcdef"}',
            "password": "",
            "token": None,
            "revision": COMMIT,
            "other": COMMIT,
        }
    )
    assert found == {
        "headers": {"Authorization": REDACTED, "retries": 3},
        "credentials": {"user": REDACTED, "more": [REDACTED, 1, None]},
        "urls": [f"https://{REDACTED}@c", {"token": REDACTED}],
        "command": ["judge", "--api-key", REDACTED, "--port", "1"],
        "text": f'{{"api_key": "{REDACTED}"}}',
        "password": "",
        "token": None,
        "revision": COMMIT,
        "other": REDACTED,
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:pass@host/x", "https://<redacted>@host/x"),
        ("at postgres://u:p@ss@h/db now", "at postgres://<redacted>@h/db now"),
        ("https://u:p/ss@h/x", "https://<redacted>@h/x"),
        (f"git+https://{GITHUB}:x-oauth-basic@github.com/a/b.git@main", "git+https://<redacted>@github.com/a/b.git@main"),
        ("https://h/x?api_key=abc&part=1#access_token=z", "https://h/x?api_key=<redacted>&part=1#access_token=<redacted>"),
        ("https://b/x?X-Amz-Credential=A&X-Amz-Signature=b&n=1", "https://b/x?X-Amz-Credential=<redacted>&X-Amz-Signature=<redacted>&n=1"),
        (f"bad key {OPENAI}, {HF}", "bad key <redacted>, <redacted>"),
        ("Authorization: Bearer abc123def456", "Authorization: Bearer <redacted>"),
        ("x.api_key = 'abc': must be longer", "x.api_key = '<redacted>': must be longer"),
        ("{'password': 'abc', 'n': 1}", "{'password': '<redacted>', 'n': 1}"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----.", "<redacted>."),
    ],
)  # fmt: skip
def test_secrets_in_text_are_replaced(text, shown):
    assert redact_text(text) == shown
    assert redact_text(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "hf://datasets/a/b@main/file and http://host:8000/p?email=a@b",
        "skyrl-core:dual_clip@1, commit " + COMMIT,
        "unknown key: trainer.steps; api_key: must be text",
        "task-abcdefghijklmnopqrstuvwxyz, Basic functionality, pad_token=<pad>, key=a",
    ],
)
def test_text_without_secrets_stays(text):
    assert redact_text(text) == text


def test_a_command_line_is_shown_without_secrets():
    given = ["skyrl", "train", "+environment.params.api_key=abc", "--token", "xyz", "--config", "a.yaml"]
    given += ["environment.params={api_key: abc, n: 2}", "data.train=https://u:p@h/x", f"x={COMMIT}"]
    shown = ["skyrl", "train", f"+environment.params.api_key={REDACTED}", "--token", REDACTED, "--config", "a.yaml"]
    shown += [
        f"environment.params={{api_key: {REDACTED}, n: 2}}",
        f"data.train=https://{REDACTED}@h/x",
        f"x={REDACTED}",
    ]
    assert redact_arguments(given) == shown


def test_the_exact_value_of_a_known_secret_is_replaced_wherever_it_appears(monkeypatch, tmp_path):
    monkeypatch.setenv("MY_JUDGE_TOKEN", "correct horse battery")
    monkeypatch.setenv("JUDGE_CREDENTIALS", str(tmp_path))  # the path of a file says nothing
    remember_secrets({"judge": {"password": "staple" * 2}, "note": "harmless", "auth": "short"})
    text = f"refused: 'correct horse battery', staplestaple; harmless, short, {tmp_path}"
    assert redact_text(text) == f"refused: '{REDACTED}', {REDACTED}; harmless, short, {tmp_path}"


@pytest.mark.parametrize(
    "part",
    [
        "9",
        "a",
        "a.",
        "key",
        "a=",
        "://",
        "https://a:",
        "?a",
        "&key=",
        "eyJ",
        "\x1b",
        "-----BEGIN ",
        "'",
        "sk-",
        "basic ",
    ],
)
def test_the_time_grows_with_the_length_of_the_text_only(part):
    started = time.process_time()
    redact_text(f"{part * (200_000 // len(part))} https://")
    assert time.process_time() - started < 2
