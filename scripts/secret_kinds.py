"""Kinds of secrets that this program handles, for detect-secrets (scripts/secret_scan.py)."""

from __future__ import annotations

import re

from detect_secrets.plugins.base import RegexBasedDetector


class AnthropicKeyDetector(RegexBasedDetector):
    """API keys and tokens of a subscription."""

    secret_type = "Anthropic credential"
    denylist = (re.compile(r"sk-ant-[a-z]+\d\d-[A-Za-z0-9_-]{20,}"),)


class MatrixTokenDetector(RegexBasedDetector):
    """Access tokens, as Synapse makes them."""

    secret_type = "Matrix access token"
    denylist = (re.compile(r"\bsyt_[A-Za-z0-9+/=_-]{4,}_[A-Za-z]{20}_[A-Za-z0-9]{6}"),)
