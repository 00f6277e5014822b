"""What is a secret by its name."""

from __future__ import annotations

import pytest

from fastlane.config import Config
from fastlane.redact import HIDDEN, Redactor, is_secret, redact

WORDS = Config.model_fields["env_blacklisted_words"].default


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("DB_PASSWORD", True),
        ("db_password_file", True),
        ("AWS_SECRET_ACCESS", True),
        ("APIKEY", True),
        ("OAUTH_CLIENT_ID", True),
        ("GITHUB_TOKEN", True),
        ("SMTP_SERVER", False),
        ("PASS", False),
        ("AUTH_TOKEN", True),
        ("HTTP_AUTH", True),
        ("dbAuth", True),
        ("x-auth", True),
        ("AUTHOR", False),
        ("AUTHORITY", False),
        ("MYSQL_PWD", True),
        ("user.passwd", True),
        ("GPG_PASSPHRASE", True),
        ("awsCredentials", True),
        ("PRIVATE_DIR", True),
        ("PRIVATEER", False),
        ("", False),
    ],
)
def test_names(name: str, secret: bool) -> None:
    assert is_secret(name, WORDS) is secret


def test_an_empty_word_hides_nothing() -> None:
    assert not is_secret("PATH", ("", "key"))


def test_redact_makes_a_copy() -> None:
    envs = {"SMTP_SERVER": "mail", "Smtp_Password": "hunter2"}
    # A generator can be read once only.
    assert redact(envs, (word for word in WORDS)) == {"SMTP_SERVER": "mail", "Smtp_Password": "***"}
    assert envs["Smtp_Password"] == "hunter2"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("--password=hunter2 -v", "--password=*** -v"),
        ("--password hunter2 -v", "--password *** -v"),
        ("--password='hunter 2' -v", "--password=*** -v"),
        ('PASSWORD="a b" run', "PASSWORD=*** run"),
        ("a: db_password=x", "a: db_password=***"),
        ('{"apiKey": "x y", "n": 1}', '{"apiKey": ***, "n": 1}'),
        ("curl -H 'Authorization: Bearer abc' u", "curl -H 'Authorization: ***' u"),
        ("psql postgres://u:pw@h/db", "psql postgres://u:***@h/db"),
        ("redis://:pw@h", "redis://:***@h"),
        ("git clone https://t0ken@h/x", "git clone https://***@h/x"),
        ("GET /?token=abc&page=2", "GET /?token=***&page=2"),
        ("the password is wrong", "the password is wrong"),
        ("mail ann@example.org", "mail ann@example.org"),
        ("http://h/@x", "http://h/@x"),
    ],
)
def test_texts(text: str, shown: str) -> None:
    assert Redactor(WORDS).text(text) == shown


def test_commands() -> None:
    redactor = Redactor(WORDS)
    assert redactor.command("run --token=a --key b c") == "run --token=*** --key *** c"
    words = ("run", "--api-key", "abc", "--password=x", "--token", "-v", "SECRET=1")
    assert redactor.command(words) == (
        *("run", "--api-key", HIDDEN, "--password=***", "--token", "-v", "SECRET=***"),
    )


def test_the_value_of_an_option_ends_where_its_word_ends() -> None:
    command = ("x", "--password=a,b c", "DB_PASSWORD=a&b", "--hosts=a,b")
    shown = Redactor(WORDS).command(command)
    assert shown == ("x", "--password=***", "DB_PASSWORD=***", "--hosts=a,b")


def test_a_password_with_an_at_sign_in_a_url_is_hidden_to_its_end() -> None:
    redactor = Redactor(WORDS)
    assert redactor.url("pg://u:p@q@host/x") == "pg://u:***@host/x"
    assert redactor.url("https://to@ken@host/a@b") == "https://***@host/a@b"


def test_values_at_any_depth() -> None:
    redactor = Redactor(WORDS)
    given = {"a": [{"myToken": {"deep": 1}}, "http://u:p@h"], "n": 1, "password": None}
    shown = {"a": [{"myToken": HIDDEN}, "http://u:***@h"], "n": 1, "password": HIDDEN}
    assert redactor.value(given) == shown
    nested: object = "x"
    for _ in range(100):
        nested = [nested]
    assert HIDDEN in str(redactor.value(nested))


@pytest.mark.parametrize("piece", ["password", "password=", "://a:b", "--key ", '"', "a.b-"])
def test_a_text_of_a_stranger_costs_time_linear_in_its_length(piece: str) -> None:
    """A pattern that backtracks would be at this for hours; pytest's time limit ends that."""
    assert Redactor(WORDS).text(piece * 50_000)
