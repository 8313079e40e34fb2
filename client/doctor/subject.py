"""What the checks look at: a site, opened, and one conversation with its hub, held when it is needed."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from client.doctor.contact import TIMEOUT_S, Contact, Proxy, ask, proxy_for, resolve
from client.join import connection
from client.site import Site, open_site
from client.trust import CA_FILE, UnreachableError, trust
from common.addresses import split_address
from common.errors import FedGliaError


@dataclass(frozen=True)
class Subject:
    """A site whose site.toml can be read."""

    site: Site
    timeout_s: float = TIMEOUT_S

    @property
    def folder(self) -> Path:
        """The site's."""
        return self.site.folder

    @cached_property
    def host(self) -> str:
        """Of the hub.

        Raises:
            InputError: site.toml's address is none.
        """
        return split_address(self.site.hub)[0]

    @cached_property
    def proxy(self) -> Proxy | None:
        """On the way to the hub, as this process's environment says; None too where its address is none."""
        try:
            return proxy_for(self.host)
        except ValueError:
            return None

    @property
    def proxy_trouble(self) -> str:
        """Why the proxy that is set cannot be one; empty where it can, or none is set."""
        try:
            proxy_for(self.host)
        except ValueError as error:
            return str(error)
        return ""

    @cached_property
    def unresolved(self) -> OSError | None:
        """Why the first host on the way, the proxy's or the hub's, cannot be found; None where it can."""
        try:
            resolve(self.proxy.host if self.proxy else self.host, timeout_s=self.timeout_s)
        except OSError as error:
            return error
        return None

    @cached_property
    def proxy_away(self) -> OSError | None:
        """Why the proxy takes no connection; None where it does, or none can be asked."""
        if self.proxy is None or self.unresolved:
            return None
        try:
            socket.create_connection((self.proxy.host, self.proxy.port), timeout=self.timeout_s).close()
        except OSError as error:
            return error
        return None

    @property
    def is_way_known(self) -> bool:
        """Whether the first host on the way is known and, if it is a proxy, takes connections."""
        return not (self.proxy_trouble or self.unresolved or self.proxy_away)

    @cached_property
    def trusted(self) -> str | FedGliaError:
        """How the hub's authority came to be believed, which a check tries too; or why none is."""
        if not (self.folder / CA_FILE).exists() and not self.is_way_known:
            return UnreachableError("no authority was met yet, and the way to the hub is not known")
        try:
            return trust(self.folder, self.site.hub, timeout_s=self.timeout_s).how
        except FedGliaError as error:
            return error

    @cached_property
    def contact(self) -> Contact | None:
        """The conversation with the hub; None where there is no way to begin one."""
        if not self.is_way_known or isinstance(self.trusted, FedGliaError):
            return None
        return ask(self.site.hub, self.folder / CA_FILE, timeout_s=self.timeout_s)


def subject(folder: Path) -> Subject:
    """The site in a folder, to be looked at.

    Raises:
        SiteError: site.toml cannot be read, or names no hub.
    """
    connection(folder)
    return Subject(open_site(folder))
