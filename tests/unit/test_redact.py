"""What is a secret by its name."""

from __future__ import annotations

import pytest

from fastlane.config import Config
from fastlane.redact import is_secret, redact

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
