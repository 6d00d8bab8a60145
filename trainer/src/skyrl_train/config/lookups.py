"""Options that are looked up on this machine or on the network: paths, hub names, addresses. Imports no torch."""

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, AnyHttpUrl, TypeAdapter, ValidationError, WithJsonSchema

from skyrl_core.lookup import path_fault

_HUB_NAME = re.compile(r"(?=.{1,96}$)[A-Za-z0-9_][\w.-]*(?:/[A-Za-z0-9_][\w.-]*)?", re.ASCII)
_TRIMMED = re.compile(r"[\s\x00-\x20\x7f]")
_LONGEST_HOST, _LONGEST_LABEL = 253, 63
_ADDRESS: TypeAdapter[AnyHttpUrl] = TypeAdapter(AnyHttpUrl)


def is_hub_name(name: str) -> bool:
    """Whether a model or a data set on a hub may have this name: NAME, or OWNER/NAME."""
    return _HUB_NAME.fullmatch(name) is not None


def server_address_fault(url: str) -> str | None:
    """The reason why a text is not the address of a server; None if it is one."""
    rule = "must be the address of a server without a path, such as http://127.0.0.1:8000"
    try:
        address = _ADDRESS.validate_python(url)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0].get("ctx", {}).get("error")
        return f"{rule}{f': {reason}' if reason else ''}"
    # Pydantic drops spaces and null bytes around an address, which is later used as it is.
    host = (urlsplit(url).hostname or "").rstrip(".")
    unwanted = address.path not in (None, "/") or address.query is not None or address.fragment is not None
    if unwanted or not address.port or not host or _TRIMMED.search(url):
        return rule
    if len(host) > _LONGEST_HOST or any(not 0 < len(label) <= _LONGEST_LABEL for label in host.split(".")):
        return f"{rule}: a host has at most {_LONGEST_HOST} characters, and {_LONGEST_LABEL} between its dots"
    return None


def _looked_up(path: str) -> str:
    if fault := path_fault(path):
        raise ValueError(fault)
    return path


PathText = Annotated[str, AfterValidator(_looked_up), WithJsonSchema({"type": "string"})]
"""The path of a file or a folder, or a name that is tried as one first."""
