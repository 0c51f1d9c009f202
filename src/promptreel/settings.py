"""The settings, read once from PROMPTREEL_* by bootstrap and the command line, and handed down as plain values."""

from __future__ import annotations

import difflib
import os
import re
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from promptreel.errors import BadConfiguration

PREFIX = "PROMPTREEL_"

# Kubernetes tells every container of every service: for one that is called promptreel, PROMPTREEL_SERVICE_HOST=10.0.0.1,
# PROMPTREEL_PORT=tcp://10.0.0.1:8000, PROMPTREEL_PORT_8000_TCP_ADDR=10.0.0.1 and more; for promptreel-api likewise.
_LINK = re.compile(r"(tcp|udp|sctp)://")
_PORT_NAMES = re.compile(PREFIX + r"(\w+_)?PORT", re.IGNORECASE)
_LINK_NAMES = re.compile(
    PREFIX + r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)", re.IGNORECASE
)


def _split_list(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(_split_list)]


def _read_host(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]+", value):
        raise ValueError("give names alone, separated by commas, such as media.internal; addresses go to the networks")
    return value.lower().removesuffix(".")


def _read_origin(value: str) -> str:
    parts = urlsplit(value)
    if (
        parts.scheme not in {"http", "https"}
        or not parts.hostname
        or value.lower() != f"{parts.scheme}://{parts.netloc}".lower()
    ):
        raise ValueError("give scheme and host of each site, separated by commas, such as https://app.example.com")
    return value.lower()


Origins = Annotated[tuple[Annotated[str, AfterValidator(_read_origin)], ...], NoDecode, BeforeValidator(_split_list)]
Hosts = Annotated[tuple[Annotated[str, AfterValidator(_read_host)], ...], NoDecode, BeforeValidator(_split_list)]
Ports = Annotated[tuple[Annotated[int, Field(ge=1, le=65535)], ...], NoDecode, BeforeValidator(_split_list)]


def _read_alias(value: str) -> str:
    names = [part.strip() for part in value.split("=")]
    if len(names) != 2 or not all(names):
        raise ValueError("give NAME=MODEL for each, separated by commas, such as sora-2=cutout,sora-2-pro=cutout")
    return "=".join(names)


Aliases = Annotated[tuple[Annotated[str, AfterValidator(_read_alias)], ...], NoDecode, BeforeValidator(_split_list)]
Generations = Annotated[tuple[Literal["v3", "v4", "v5", "v6", "enterprise"], ...], NoDecode, BeforeValidator(_split_list)]


class Settings(BaseSettings):
    """What can be set, each as PROMPTREEL_<NAME>. docs/settings.md is this list in words, and a test compares them."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, env_ignore_empty=True, extra="forbid", validate_default=True
    )

    data_dir: Path = Field(
        default=Path("~/.local/share/promptreel"),
        description="Where the queue, the videos and the added models are kept. It must be on a local disk.",
    )
    host: str = Field(
        default="127.0.0.1", description="The address to listen on; 0.0.0.0 lets other machines in, which needs an API key."
    )
    port: int = Field(default=8000, ge=0, le=65535, description="The port to listen on; 0 takes a free one.")
    workers: int = Field(
        default=1,
        ge=0,
        le=64,
        description="How many worker processes make videos at the same time. 0: `promptreel worker` runs elsewhere on this "
        "machine.",
    )
    database_url: str | None = Field(
        default=None,
        repr=False,
        description="Where the queue is kept, as an SQLAlchemy URL. Left out: an SQLite file in the data directory.",
    )
    public_url: str | None = Field(
        default=None,
        description="The start of the links in answers, as clients reach the service: https://video.example.com. "
        "Left out: the scheme and host that each client used.",
    )
    trusted_proxies: Networks = Field(
        default=(),
        description="Addresses or networks, separated by commas, of the proxies whose X-Forwarded-Proto and X-Forwarded-Host "
        "are believed.",
    )
    cors_origins: Origins = Field(
        default=(),
        description="Sites, separated by commas, whose web pages may use the service from a browser: https://app.example.com. "
        "Left out: none.",
    )
    real_status_codes: Generations = Field(
        default=(),
        description="Generations of the hosted API, separated by commas, whose errors answer 400, 404 and the like instead of "
        "200, which their clients expect: v3, v4, v5, v6, enterprise.",
    )
    model_aliases: Aliases = Field(
        default=(),
        description="Other names of models, as NAME=MODEL, separated by commas, for clients that name models of another "
        "service: sora-2=cutout,sora-2-pro=cutout. A model that is there goes before an alias of the same name.",
    )
    file_link_seconds: int | None = Field(
        default=None,
        ge=1,
        le=366 * 86400,
        description="How long links to files work, in seconds. Left out: links do not expire, and are not signed.",
    )
    track_id_is_idempotent: bool = Field(
        default=False,
        description="Whether a request with the track_id of an earlier one of the same API key is answered with that one's "
        "job, as with an Idempotency-Key.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least severe events to log."
    )
    lease_seconds: float = Field(
        default=30.0,
        ge=1,
        le=3600,
        description="How long a worker may be silent before its job is given to another one, in seconds.",
    )
    max_attempts: int = Field(
        default=5, ge=1, le=100, description="How many times a job may lose its worker before it fails with worker_lost."
    )
    stall_seconds: float = Field(
        default=1800.0,
        ge=1,
        le=7 * 86400,
        description="How long a job may make no progress before its worker ends and it is tried again, in seconds; at least "
        "ten times as long as the longest pause between two steps of any job of that worker so far.",
    )
    jobs_at_once: int = Field(
        default=8,
        ge=1,
        le=64,
        description="How many jobs of the same model a worker has in hand at once; they share the model's calls.",
    )
    memory_per_worker: int | None = Field(
        default=None,
        ge=1,
        description="Megabytes that the jobs which a worker has in hand at once may take together, by estimate, beside the "
        "model; a job alone always runs. Left out: a quarter of the machine's memory, or its container's, shared between the "
        "workers.",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Threads that each worker computes with. Left out: all cores, shared between the workers.",
    )

    fetch_allow_hosts: Hosts = Field(
        default=(),
        description="Names of hosts, separated by commas, that URLs in requests may lead to though they are not public.",
    )
    fetch_allow_networks: Networks = Field(
        default=(),
        description="Addresses or networks, separated by commas, that URLs in requests may lead to though they are not public.",
    )
    fetch_allow_ports: Ports = Field(
        default=(), description="Ports, separated by commas, that URLs in requests may have besides 80 and 443."
    )

    api_key: str | None = Field(
        default=None,
        repr=False,
        description="The key that `promptreel generate --server` sends. The service itself does not read it.",
    )

    @field_validator("data_dir")
    @classmethod
    def _make_absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.netloc or parts.query or parts.fragment:
            raise ValueError("give a whole address, such as https://video.example.com")
        return value.rstrip("/")

    @field_validator("port", mode="before")
    @classmethod
    def _pass_over_link(cls, value: object) -> object:
        return cls.model_fields["port"].default if isinstance(value, str) and _LINK.match(value) else value

    @property
    def models_by_alias(self) -> dict[str, str]:
        return dict(each.split("=") for each in self.model_aliases)

    @property
    def database(self) -> str | Path:
        """Where the database is that is used: its URL, or its file."""
        return self.database_url or self.data_dir / "promptreel.db"

    @property
    def threads_per_worker(self) -> int:
        return self.threads or max(1, (os.cpu_count() or 1) // max(1, self.workers))


def load_settings(**given: Any) -> Settings:
    """Settings from the environment; what the command line gives goes first, None standing for not given.

    Raises BadConfiguration, which lists every bad value and every PROMPTREEL_ variable that is no setting.
    """
    bad = _name_unknown()
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        bad = [*_name_bad(error), *bad]
    if bad:
        raise BadConfiguration("\n  ".join(["These settings cannot be used:", *bad]))
    return settings


def list_bad_settings() -> list[str]:
    """What load_settings would complain of, without the values: one may be a secret that was given to the wrong setting."""
    try:
        Settings()
    except ValidationError as error:
        return [*_name_bad(error, with_values=False), *_name_unknown()]
    return _name_unknown()


def name_links() -> list[str]:
    """The variables that are Kubernetes' own, and no settings, though they are called like some."""
    return [
        name
        for name, value in sorted(os.environ.items())
        if _LINK_NAMES.fullmatch(name) or (_PORT_NAMES.fullmatch(name) and _LINK.match(value))
    ]


def _name_bad(error: ValidationError, *, with_values: bool = True) -> list[str]:
    """One line for each setting that is wrong. A database's URL may hold a password: such values are not repeated."""
    lines: dict[str, str] = {}
    for problem in error.errors(include_url=False):
        name = str(problem["loc"][0])
        value = "" if not with_values or name in {"database_url", "api_key"} else f"={problem['input']}"
        lines.setdefault(name, f"{PREFIX}{name.upper()}{value}: {problem['msg'].removeprefix('Value error, ')}")
    return list(lines.values())


def _name_unknown() -> list[str]:
    """One line for each variable that looks like a setting and is none: a slip of the pen would otherwise change nothing."""
    known, links = [PREFIX + name.upper() for name in Settings.model_fields], name_links()
    lines = []
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX) and name.upper() not in known and name not in links:
            close = difflib.get_close_matches(name.upper(), known, n=1)
            lines.append(f"{name}: there is no such setting" + (f"; do you mean {close[0]}?" if close else "."))
    return lines
