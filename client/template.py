"""site.toml as `fedglia site init` writes it: a person edits it, so every key says what it is for."""

from __future__ import annotations

import textwrap
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import tomlkit

from client.policy import Policy, parse_policy
from common.errors import InputError

_HEAD = """\
# This site of a FedGlia federation. The file is yours: edit it, then run `fedglia site check`.
# Commands that change it (approve, revoke-approval, withdraw) keep your comments.

# What plans call this site. The hub knows it by this name and its key; do not change it later.
name = {name}

# The folder of scans; nothing is ever written into it. `fedglia data check` looks at every case.
data = {data}

# Patients who withdrew: never used again. Add one with `fedglia site withdraw PATIENT`.
withdrawn = []

# How a message is worked on: "fork", in a process of its own, or "resident", in the worker itself, which
# spares each message the start of a GPU.
# worker = "fork"

[hub]
# The only address on the network that this site speaks to, as HOST:PORT; the site dials, nobody dials in.
# Through a proxy: set https_proxy for the user that runs `fedglia site start`.
address = {hub}

# A port on 127.0.0.1 between this site's own two processes. Any free one will do.
runtime_port = {runtime_port}

# The fingerprint that the hub's authority must have when it is met for the first time; what is pinned then
# lies in hub-ca.crt, and `fedglia site trust` changes it.
{authority}

# What this hospital allows. A line that begins with # shows the value that holds while it is not set.
# Whatever a plan asks for beyond this is refused before anything runs, and noted in audit.jsonl.
[policy]
"""


def site_toml(
    *,
    name: str,
    data: Path,
    hub: str,
    runtime_port: int,
    policy: Mapping[str, object] | None = None,
    authority: str | None = None,
) -> str:
    """The text of a new site.toml; keys of `policy` are set, the others stand there as comments."""
    head = _HEAD.format(
        name=as_toml(name),
        data=as_toml(str(data)),
        hub=as_toml(hub),
        runtime_port=runtime_port,
        authority=f"authority = {as_toml(authority)}" if authority else '# authority = "AB:CD:..."',
    )
    return head + "\n".join(_policy_lines(policy or {}))


def _policy_lines(given: Mapping[str, object]) -> list[str]:
    lines = []
    for key, field in Policy.model_fields.items():
        if key == "approved":
            continue
        value = given.get(key, field.get_default(call_default_factory=True))
        lines += textwrap.wrap(f"{field.description}", 105, initial_indent="# ", subsequent_indent="# ")
        lines += [f"{'' if key in given else '# '}{key} = {as_toml(value)}", ""]
    return lines


def as_toml(value: object) -> str:
    """A value as TOML writes it."""
    return tomlkit.item(list(value) if isinstance(value, tuple) else value).as_string()


def parsed_policy(settings: Sequence[str]) -> dict[str, object]:
    """Keys of [policy] from `KEY=VALUE`, where a value is TOML's or, without quotes, a text.

    Raises:
        InputError: no `=`, or `approved`, which only `fedglia site approve` writes.
        SiteError: a key that the policy does not know, or a value that does not fit.
    """
    found: dict[str, object] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or key.strip() == "approved":
            raise InputError(
                f"--policy '{setting[:60]}': give KEY=VALUE, as max_rounds=20; approve plans later"
            )
        try:
            found[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            found[key.strip()] = text.strip()
    parse_policy(found)
    return found
