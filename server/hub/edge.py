"""The edge: nginx, the only process of the hub that listens outside.

Flower's one port serves the sites, the coordinator and the workers alike, and the coordinator's part asks
for no password. So the edge lets through the ten calls that a site makes, of keys that were admitted, and
the health check. Three things are particular (decision 0019):

A call is matched on the raw request line: nginx passes that line on, but compares its locations with a
decoded one. Load is shed with 503 only, and what fails inside is called 503 too: any other status ends a
site's loop for good. A body is read whole, to a limit, before the SuperLink sees its first byte.
"""

from __future__ import annotations

import base64
import os
import platform
import shutil
import signal
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

from common.errors import InputError, RunError
from common.files import write_atomic
from common.flower import bundle_sha256

MAX_BODY = "8m"
"""Arrays travel in pieces of 5 MiB."""
HEADER = "FedGlia"
"""Answers of /health carry the hub's versions under this name."""
FLEET_CALLS = (
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "get-run",
    "get-fab",
    "push-object",
    "pull-object",
    "confirm-message-received",
)
UNKNOWN_KEY = '{"code":2004,"detail":"Failed to activate SuperNode."}'
"""Flower's own words with status 412; a node that reads them ends, and says why."""
_TEST_LIMIT_S = 20.0

_CONFIGURATION = """\
# Written by FedGlia at each start; paths are relative to this folder. Edit hub.toml instead.
{user}worker_processes 1;
worker_rlimit_nofile 8192;
daemon off;
pid nginx.pid;
error_log stderr error;  # a warning says each time that a body went through a file
events {{ worker_connections 4096; }}
http {{
  log_format fleet '$time_iso8601 $remote_addr "$request" $status in=$request_length out=$bytes_sent '
                   'rt=$request_time urt=$upstream_response_time conn=$connection/$connection_requests';
  map_hash_bucket_size 1024;
  map_hash_max_size 8192;

  # A site asks several times a second; what went well and says nothing is not written down.
  map "$status $request_uri" $told {{
    default 1;
    "~^200 /v1/fleet/(?!activate|deactivate|get)" 0;
    "~^200 /health$" 0;
  }}
  access_log ../logs/edge.log fleet if=$told;
  server_tokens off;
  default_type text/plain;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path unused;
  uwsgi_temp_path unused;
  scgi_temp_path unused;

  limit_conn_zone $binary_remote_addr zone=connections:1m;
  limit_conn_zone $server_port zone=everybody:64k;  # the SuperLink holds a body twice: at most 1 GB in all
  limit_req_zone $binary_remote_addr zone=requests:1m rate=200r/s;

  map "$request_method $request_uri" $fleet {{
    default 0;
    "~^POST /v1/fleet/({calls})$" 1;
  }}
  map $http_flwr_public_key $admitted {{
    default 0;
    include admitted.conf;
  }}
  # Told as the SuperLink tells a key that it does not know.
  map "$admitted $request_uri" $refused {{
    default "";
    "0 /v1/fleet/activate-node" node;
    "~^0 " call;
  }}

  upstream link {{
    server 127.0.0.1:{link};
    keepalive 16;
    keepalive_timeout 4s;  # below the SuperLink's own 5 s: never reuse a connection that it is closing
  }}
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_set_header Host localhost;
  proxy_ssl_trusted_certificate ../pki/ca.crt;
  proxy_ssl_verify on;
  proxy_ssl_name localhost;
  proxy_ssl_server_name on;
  proxy_ssl_protocols TLSv1.2 TLSv1.3;
  proxy_connect_timeout 5s;
  proxy_read_timeout 60s;
  proxy_send_timeout 60s;
  proxy_next_upstream off;

  server {{
    listen {listen}:{edge} ssl{families};
    server_name _;
    ssl_certificate ../pki/edge.crt;
    ssl_certificate_key ../pki/edge.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_ciphers ECDHE+AESGCM:ECDHE+CHACHA20;
    ssl_session_cache shared:sessions:1m;
    ssl_session_tickets off;
    keepalive_timeout 75s;
    keepalive_requests 100000;

    client_max_body_size {max_body};
    client_body_buffer_size 256k;
    client_header_timeout 10s;
    client_body_timeout 30s;
    send_timeout 60s;
    limit_conn connections 40;  # a site's question for a message stays open, see common/doorbell.py
    limit_conn everybody 64;
    limit_conn_status 503;
    limit_req zone=requests burst=400 nodelay;
    limit_req_status 503;

    location /v1/fleet/ {{
      if ($fleet = 0) {{ return 404; }}
      default_type application/json;
      if ($refused = node) {{ return 412 '{unknown}'; }}
      if ($refused = call) {{ return 401; }}
      proxy_pass https://link;
      proxy_request_buffering on;
      proxy_buffers 16 256k;
      proxy_buffer_size 64k;
      proxy_max_temp_file_size 32m;
      proxy_intercept_errors on;
      error_page 500 =503 @busy;  # a full disk here or behind: the site tries again
    }}
    location @busy {{ return 503; }}
    location = /health {{
      if ($request_uri != /health) {{ return 404; }}
      limit_except GET {{ deny all; }}
      proxy_pass https://link;
      add_header {header} "{versions}" always;
    }}
    location / {{ return 404; }}
  }}
}}
"""


def write_configuration(
    folder: Path, *, listen: str, edge_port: int, link_port: int, admitted: Sequence[str]
) -> None:
    """Write the edge's files into `folder`, which is made if missing.

    Args:
        folder: beside the hub's `pki` and `logs`.
        listen: IP address to listen on, an IPv6 one in brackets; [::] is every one of both families.
        edge_port: where sites dial.
        link_port: where the SuperLink listens on loopback.
        admitted: public keys of admitted sites, in OpenSSH's form.

    Raises:
        RunError: the files cannot be written.
    """
    write_admitted(folder, admitted)  # makes the folder
    text = _CONFIGURATION.format(
        user="user root;\n"
        if os.geteuid() == 0
        else "",  # else nginx's workers are nobody, who may read nothing
        calls="|".join(FLEET_CALLS),
        link=link_port,
        edge=edge_port,
        listen=listen,
        families=" ipv6only=off" if listen == "[::]" else "",
        max_body=MAX_BODY,
        header=HEADER,
        versions=versions(),
        unknown=UNKNOWN_KEY,
    )
    write_atomic(folder / "nginx.conf", text.encode())


def write_admitted(folder: Path, keys: Sequence[str]) -> None:
    """Write the keys that the edge lets through; takes effect when the edge is told to read its files again.

    Raises:
        InputError: a key is none.
        RunError: the file cannot be written.
    """
    lines = [f'"{header_of(key)}" 1;\n' for key in sorted(set(keys))]
    folder.mkdir(mode=0o700, exist_ok=True)  # a site may be admitted before the hub was ever started
    write_atomic(folder / "admitted.conf", "".join(lines).encode())


def header_of(public_key: str) -> str:
    """What a site's SuperNode sends as `flwr-public-key`, for a key in OpenSSH's form.

    Raises:
        InputError: this is no public key.
    """
    try:
        key = load_ssh_public_key(public_key.encode())
    except Exception:  # the parser raises many kinds for text that is no key
        raise InputError("this is no public key in OpenSSH's form") from None
    return base64.b64encode(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).decode()


def versions() -> str:
    """What a site compares itself with, for example `version=0.1.0 flwr=1.41.0 ...`."""
    facts = {
        "version": version("fedglia"),
        "flwr": version("flwr"),
        "torch": version("torch").partition("+")[0],
        "python": ".".join(platform.python_version_tuple()[:2]),
        "bundle": bundle_sha256(),
    }
    return " ".join(f"{name}={value}" for name, value in facts.items())


def command(folder: Path) -> tuple[str, ...]:
    """Nginx in the foreground, with the configuration in `folder`.

    Raises:
        InputError: nginx is not installed.
    """
    return (_nginx(), "-p", f"{folder}/", "-c", "nginx.conf", "-e", "stderr")


def check_configuration(folder: Path) -> None:
    """Let nginx judge the configuration in `folder`, listening on nothing.

    Raises:
        InputError: nginx is not installed.
        RunError: nginx refuses the configuration; the message holds its words.
    """
    try:
        asked = [*command(folder), "-t", "-q"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=_TEST_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise RunError(
            "edge: nginx did not answer when asked to test its configuration", code="edge"
        ) from None
    if done.returncode != 0:
        raise RunError(f"edge: nginx refuses its configuration: {done.stderr.strip()}", code="edge")


def reload(folder: Path) -> bool:
    """Tell a running edge to read its files again, without dropping a call; False where none runs.

    Raises:
        RunError: the files would be refused; the edge goes on as it was.
    """
    try:
        master = int((folder / "nginx.pid").read_text())
        mine = Path(f"/proc/{master}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return False
    # The number may be another program's by now.
    if not any(f"{folder}/".encode() in word for word in mine):
        return False
    check_configuration(folder)
    os.kill(master, signal.SIGHUP)
    return True


def _nginx() -> str:
    # Debian keeps it where only root's PATH leads.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which("nginx", path=path)
    if found is None:
        raise InputError(
            "nginx is not on this machine, and nothing else may stand between the hub and the network: "
            "install it (Debian, Ubuntu: apt install nginx; Fedora: dnf install nginx), "
            "and let the system not start its own (systemctl disable --now nginx)"
        )
    return found
