"""The hub's mirror that HF_ENDPOINT names, checked before packages read it: they break on a malformed one."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from fgmae_bench.errors import BenchError


def hub_endpoint() -> str | None:
    """The address that HF_ENDPOINT holds, None where it holds none; raises BenchError on what cannot be an address.

    To be called before `huggingface_hub`, or timm, which imports it, is imported for the first time.
    """
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    shown = without_password(endpoint)
    try:
        named = urlsplit(endpoint).port is not None or urlsplit(endpoint).hostname
    except ValueError as error:
        raise BenchError(f"HF_ENDPOINT is {shown!r}, a malformed address ({error})", "correct it") from error
    if endpoint and not named:
        raise BenchError(f"HF_ENDPOINT is {shown!r}, which names no host", "begin it with https://")
    return endpoint or None


def without_password(address: str) -> str:
    """An address, or a host, without the user and the password before `@`, for messages and provenance."""
    scheme, mark, rest = address.rpartition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}"
