"""Removes secrets from what is printed, written or sent: values, texts and command lines. Imports nothing else."""

import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

REDACTED = "<redacted>"
"""Replaces a secret. A configuration that contains it is refused, so that it is never used as a value."""

MIN_LENGTH = 8
"""Characters from which the exact value of a known secret is searched for in texts."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_STRONG = _words(
    "password passwords passwd passphrase pwd secret secrets credential credentials creds authorization bearer apikey "
    "apikeys apitoken authtoken accesstoken accesskey secretkey privatekey"
)
"""Words that make any name one of a secret."""
_WEAK = _words("key token auth pat jwt cookie sig signature")
"""Words that do if they end a name, unless the word before says that the value is public."""
_PUBLIC = _words(
    "answer audio begin bos cache cls column data dict document end eos field foreign group ground image input json "
    "label mask message metric output pad per primary prompt public question response reward row sample score sep "
    "solution sort special start stop target text think truth unk value video"
)
_PLURAL = _words("keys tokens cookies")
_PLURAL_OF = _words("access api auth bearer private refresh secret session")
_REFERENCE = _words("column count dir env environ file folder len length limit name path size sock type var variable")
"""Last words of a name whose value tells where a secret is, or counts something."""
_FINGERPRINT = _words("checksum commit digest fingerprint git hash id ref rev revision sha sha1 sha256")

# Patterns are compiled when they are first used: that takes longer than reporting a wrong option.
_PATTERNS = (
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
    r"\bhf_[A-Za-z0-9]{16,}",
    r"(?<![A-Za-z0-9])(?:sk|pk|rk)-[A-Za-z0-9_-]{16,}",
    r"(?<![A-Za-z0-9])(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{10,}",
    r"\bgh[pousr]_[A-Za-z0-9]{20,}",
    r"\bgithub_pat_[A-Za-z0-9_]{20,}",
    r"\bglpat-[A-Za-z0-9_-]{16,}",
    r"\bxox[abeprs]-[A-Za-z0-9-]{10,}",
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    r"\bAIza[0-9A-Za-z_-]{30,}",
    r"\b(?:gsk|nvapi|r8|pplx)[_-][A-Za-z0-9_-]{20,}",
    r"\bwandb_v[0-9]+_[A-Za-z0-9_]{16,}",
    r"\blocal-[0-9a-f]{40}\b",
    r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",
)
_KNOWN_FORM = "|".join(_PATTERNS)
_WANDB_KEY = r"(?<![0-9a-zA-Z])[0-9a-f]{40}(?![0-9a-zA-Z])"
"""Also the form of a commit, so it counts only next to a name that is none of a commit."""
# Every repetition that could start at each character is limited, so that the time grows with the length of the text.
_USER_INFO = (
    r"(?<![a-zA-Z0-9+.-])([a-zA-Z][a-zA-Z0-9+.-]{0,30}://)"
    r"(?:[^\s/?#'\"<>]{0,1000}@|[^\s/@:'\"<>]{0,200}:(?!\d{1,5}[/?#])[^\s'\"<>@]{0,500}@)"
)
_QUERY = r"([?&;#])([\w.%\[\]-]+)=([^&\s#'\"<>]+)"
_SCHEME = r"(?i)\b(bearer|basic)(\s+)(?=[\w.~+/=-]*[0-9=])[\w.~+/=-]{8,}"
_NAME_AND_SIGN = r"(?<![\w.-])([\w.-]{1,200})([\"']?\s{0,9}([=:])\s{0,9})"
_VALUE = r"\"[^\"\n]*\"|'[^'\n]*'|[^\s\"'&,;}\])<>]+"
_WORD = r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+"

_remembered: set[str] = set()


@lru_cache(maxsize=4096)
def names_secret(name: str) -> bool:
    """Whether a value under this name, such as ``judge.api_key`` or ``hfToken``, is a secret."""
    words = _name_words(name)
    if not words or words[-1] in _REFERENCE:
        return False
    if _STRONG.intersection(words) or "apikey" in "".join(words):
        return True
    before = words[-2] if len(words) > 1 else ""
    if words[-1] in _PLURAL:
        return before in _PLURAL_OF
    return words[-1] in _WEAK and before not in _PUBLIC


def redacted(value: Any, name: str = "") -> Any:
    """The value, which is plain data, with every secret in it replaced; ``name`` is the key or option it belongs to."""
    if isinstance(value, Mapping):
        inside = name if names_secret(name) else ""
        return {_key(key): redacted(each, _inner(inside, key)) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        items = [redacted(each, name) for each in value]
        return redact_arguments(items) if all(isinstance(item, str) for item in items) else items
    if not isinstance(value, str) or not value or _is_path(value):
        return value
    if names_secret(name):
        return REDACTED
    words = {word.lower() for word in re.findall(_WORD, name)}
    text = redact_text(value)
    return text if words & _FINGERPRINT else re.sub(_WANDB_KEY, REDACTED, text)


def redact_text(text: str, *, is_configuration: bool = False) -> str:
    """The text without known secrets, values that have the form of one, user info in URLs, and ``password=...``.

    In a configuration everything after ``password:`` is a value; in prose it may be an explanation.
    """
    for secret in _known_secrets():
        text = text.replace(secret, REDACTED)
    if "://" in text:
        text = re.sub(_USER_INFO, rf"\1{REDACTED}@", text)
    text = re.sub(_QUERY, lambda found: _kept(found, 2, 3), text)
    text = re.sub(_SCHEME, rf"\1\2{REDACTED}", re.sub(_KNOWN_FORM, REDACTED, text))
    return _without_assigned(text, is_configuration=is_configuration)


def redact_arguments(arguments: Sequence[str]) -> list[str]:
    """A command line without secrets: ``api_key=...``, ``--token ...``, and texts as in ``redact_text``."""
    shown: list[str] = []
    for number, argument in enumerate(arguments):
        option = arguments[number - 1] if number else ""
        name, equals, value = argument.partition("=")
        if option.startswith("-") and "=" not in option and names_secret(option) and not argument.startswith("-"):
            shown.append(REDACTED)
        elif equals and re.fullmatch(r"[-+~]*[\w.-]+", name):
            shown.append(f"{name}={redact_text(redacted(value, name), is_configuration=True)}")
        else:
            shown.append(redact_text(argument))
    return shown


def remember_secrets(value: Any, name: str = "") -> None:
    """Note the secrets in this plain data, so that ``redact_text`` recognises their exact values from now on."""
    if isinstance(value, Mapping):
        inside = name if names_secret(name) else ""
        for key, each in value.items():
            remember_secrets(each, _inner(inside, key))
    elif isinstance(value, (list, tuple)):
        for each in value:
            remember_secrets(each, name)
    elif isinstance(value, str) and _is_searchable(value) and names_secret(name):
        _remembered.add(value)


def _known_secrets() -> list[str]:
    # The environment is read each time, because a script may set a key after this module was imported.
    named = (value for name, value in os.environ.items() if names_secret(name) and _is_searchable(value))
    return sorted({*_remembered, *named}, key=len, reverse=True)


def _is_searchable(value: str) -> bool:
    return len(value) >= MIN_LENGTH and value != REDACTED and not _is_path(value)


def _inner(secret_name: str, key: Any) -> str:
    """The name of a value in a mapping: everything in a mapping with the name of a secret is one."""
    return secret_name or str(key)


def _key(key: Any) -> Any:
    return redact_text(key) if isinstance(key, str) else key


def _kept(found: re.Match[str], name: int, value: int) -> str:
    return found[0][: -len(found[value])] + REDACTED if names_secret(found[name]) else found[0]


def _without_assigned(text: str, *, is_configuration: bool) -> str:
    """The text without the values after the names of secrets."""
    parts, end = [], 0
    for found in re.finditer(_NAME_AND_SIGN, text):
        name, between, sign = found.groups()
        given = re.compile(_VALUE).match(text, found.end()) if found.start() >= end and names_secret(name) else None
        if given is None:
            continue
        quote = given[0][0] if given[0][0] in "\"'" else ""
        content = given[0].strip(quote) if quote else given[0]
        is_prose = not is_configuration and between[0] not in "\"'" and _is_prose(name, sign, content)
        if content not in ("", REDACTED) and not is_prose:
            parts += [text[end : given.start()], quote, REDACTED, quote]
            end = given.end()
    return "".join([*parts, text[end:]])


def _is_prose(name: str, sign: str, value: str) -> bool:
    """Whether this is an explanation, such as "api_key: must be text" or "unknown key: x"."""
    is_bare = len(_name_words(name)) == 1 and not _STRONG.intersection(_name_words(name))
    return (is_bare or value.isalpha()) if sign == ":" else is_bare and len(value) < MIN_LENGTH


def _name_words(name: str) -> list[str]:
    return [word.lower() for word in re.findall(_WORD, name.rpartition(".")[2])]


def _is_path(value: str) -> bool:
    return value.startswith(("/", "~/", "./")) and os.path.exists(os.path.expanduser(value))
