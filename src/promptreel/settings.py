"""The settings: environment variables PROMPTREEL_*. Only bootstrap and the commands read them; others get plain values."""

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

# Kubernetes sets variables for every service in every container. A service called promptreel (or promptreel-api) sets
# PROMPTREEL_SERVICE_HOST=10.0.0.1, PROMPTREEL_PORT=tcp://10.0.0.1:8000, PROMPTREEL_PORT_8000_TCP_ADDR=10.0.0.1 and more.
_KUBERNETES_ADDRESS = re.compile(r"(tcp|udp|sctp)://")
_PORT_NAMES = re.compile(PREFIX + r"(\w+_)?PORT", re.IGNORECASE)
_KUBERNETES_NAMES = re.compile(
    PREFIX + r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)", re.IGNORECASE
)


def _split_list(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(_split_list)]


def _read_host(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]+", value):
        raise ValueError(
            "give host names only, separated by commas, such as media.internal; "
            "addresses belong in PROMPTREEL_FETCH_ALLOW_NETWORKS"
        )
    return value.lower().removesuffix(".")


def _read_origin(value: str) -> str:
    parts = urlsplit(value)
    if (
        parts.scheme not in {"http", "https"}
        or not parts.hostname
        or value.lower() != f"{parts.scheme}://{parts.netloc}".lower()
    ):
        raise ValueError("give the scheme and host of each site, separated by commas, such as https://app.example.com")
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
    """All settings. Each is read from the variable PROMPTREEL_<NAME>. A test compares docs/settings.md with this class."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, env_ignore_empty=True, extra="forbid", validate_default=True
    )

    data_dir: Path = Field(
        default=Path("~/.local/share/promptreel"),
        description="Directory with the queue, the videos and your own models. It must be on a local disk.",
    )
    host: str = Field(
        default="127.0.0.1",
        description="The address to listen on. With 0.0.0.0, other machines can connect; this requires an API key.",
    )
    port: int = Field(default=8000, ge=0, le=65535, description="The port to listen on; 0 takes a free one.")
    workers: int = Field(
        default=1,
        ge=0,
        le=64,
        description="Number of worker processes. With 0, run `promptreel worker` yourself on the same machine.",
    )
    database_url: str | None = Field(
        default=None,
        repr=False,
        description="The queue's SQLite file, as a URL such as sqlite:////var/lib/promptreel/promptreel.db. Default: "
        "promptreel.db in the data directory.",
    )
    public_url: str | None = Field(
        default=None,
        description="The URL by which clients reach the service, such as https://video.example.com. Links in answers begin "
        "with it. Default: the scheme and host of each request.",
    )
    trusted_proxies: Networks = Field(
        default=(),
        description="Proxies whose X-Forwarded-Proto and X-Forwarded-Host headers are trusted: addresses or networks, "
        "separated by commas.",
    )
    cors_origins: Origins = Field(
        default=(),
        description="Sites whose web pages may call the service from a browser, such as https://app.example.com, separated by "
        "commas. Default: none.",
    )
    real_status_codes: Generations = Field(
        default=(),
        description="Generations of the hosted API that send errors with their real statuses (400, 404, ...). By default, "
        "they send 200, as their clients expect. Any of v3, v4, v5, v6, enterprise, separated by commas.",
    )
    model_aliases: Aliases = Field(
        default=(),
        description="Other names for models, such as sora-2=cutout,sora-2-pro=cutout: NAME=MODEL, separated by commas. They "
        "serve clients that send another service's model names. A name that is also a model's id means that model.",
    )
    file_link_seconds: int | None = Field(
        default=None,
        ge=1,
        le=366 * 86400,
        description="Signs links to files, which then expire after this many seconds. Default: unsigned links that never "
        "expire.",
    )
    track_id_is_idempotent: bool = Field(
        default=False,
        description="Use a request's track_id as its Idempotency-Key: a second request with the same track_id and API key "
        "is answered with the first one's job.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The lowest level to log: debug, info, warning or error."
    )
    lease_seconds: float = Field(
        default=30.0,
        ge=1,
        le=3600,
        description="Seconds without a heartbeat after which a worker's job goes to another worker.",
    )
    max_attempts: int = Field(
        default=5, ge=1, le=100, description="A job that has lost this many workers fails with worker_lost."
    )
    stall_seconds: float = Field(
        default=1800.0,
        ge=1,
        le=7 * 86400,
        description="How long a job may make no progress, in seconds. After that, its worker ends and the job is "
        "retried. The limit grows to ten times the longest pause between two steps that the worker has seen.",
    )
    jobs_at_once: int = Field(
        default=8,
        ge=1,
        le=64,
        description="How many jobs a worker runs at once. Jobs of one model share its calls.",
    )
    memory_per_worker: int | None = Field(
        default=None,
        ge=1,
        description="The estimated megabytes that all jobs of a worker may take together, without the model. A job that "
        "needs more runs alone. Default: a quarter of the memory of the machine or container, divided by the number of "
        "workers.",
    )
    model_memory_per_worker: int | None = Field(
        default=None,
        ge=1,
        description="Megabytes that the loaded models of a worker may take together. The least recently used one leaves first. "
        "A model that is larger is loaded alone. Default: 60 % of the GPU's memory; on a CPU, a quarter of the memory of the "
        "machine or container, divided by the number of workers.",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Computing threads per worker. Default: the number of cores divided by the number of workers.",
    )

    page: Literal["on", "off"] = Field(
        default="on", description="Whether the service's address shows the page for people in a browser: on or off."
    )
    fetch_allow_hosts: Hosts = Field(
        default=(),
        description="Host names outside the public internet that URLs in requests may use, separated by commas.",
    )
    fetch_allow_networks: Networks = Field(
        default=(),
        description="Addresses or networks outside the public internet that URLs in requests may use, separated by commas.",
    )
    fetch_allow_ports: Ports = Field(
        default=(), description="Ports that URLs in requests may use, in addition to 80 and 443, separated by commas."
    )

    training_slice_seconds: float = Field(
        default=30.0,
        ge=1,
        le=86400,
        description="A training gives way to a video that has waited this long, in seconds, once it has run as long itself; "
        "and goes on after as long a wait.",
    )
    training_checkpoint_seconds: float = Field(
        default=120.0,
        ge=1,
        le=86400,
        description="How often a training saves a training checkpoint, in seconds. A crash loses what came after it.",
    )
    imports: Literal["on", "off"] = Field(
        default="on", description="Whether requests may import models from URLs: on or off. The command line always may."
    )
    trainings: Literal["on", "off"] = Field(
        default="on", description="Whether requests may train models: on or off. The command line always may."
    )
    model_megabytes: int = Field(
        default=65536, ge=1, description="The most megabytes that the files of one imported model may have together."
    )
    hub: Literal["on", "off"] = Field(
        default="off",
        description="Whether models may be imported by hub id, such as owner/name: on or off. Needs the extra `hub` or "
        "`worker`.",
    )
    hub_endpoint: str = Field(
        default="https://huggingface.co", description="The address of the model hub, which must speak Hugging Face's API."
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

    @field_validator("public_url", "hub_endpoint")
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
    def _ignore_kubernetes(cls, value: object) -> object:
        return cls.model_fields["port"].default if isinstance(value, str) and _KUBERNETES_ADDRESS.match(value) else value

    @property
    def models_by_alias(self) -> dict[str, str]:
        return dict(each.split("=") for each in self.model_aliases)

    @property
    def database(self) -> str | Path:
        """The database in use: a URL or a file."""
        return self.database_url or self.data_dir / "promptreel.db"

    @property
    def threads_per_worker(self) -> int:
        return self.threads or max(1, (os.cpu_count() or 1) // max(1, self.workers))


def load_settings(**given: Any) -> Settings:
    """Reads the settings from the environment. An argument that is not None overrides its variable.

    Raises BadConfiguration. It lists every bad value and every unknown PROMPTREEL_ variable.
    """
    bad = _describe_unknown_names()
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        bad = [*_describe_bad_values(error), *bad]
    if bad:
        raise BadConfiguration("\n  ".join(["These settings cannot be used:", *bad]))
    return settings


def list_bad_settings() -> list[str]:
    """The complaints of load_settings, without the values: a secret may have been put into the wrong variable."""
    try:
        Settings()
    except ValidationError as error:
        return [*_describe_bad_values(error, with_values=False), *_describe_unknown_names()]
    return _describe_unknown_names()


def list_kubernetes_variables() -> list[str]:
    """The names of the PROMPTREEL_ variables that Kubernetes has set. They are not settings."""
    return [
        name
        for name, value in sorted(os.environ.items())
        if _KUBERNETES_NAMES.fullmatch(name) or (_PORT_NAMES.fullmatch(name) and _KUBERNETES_ADDRESS.match(value))
    ]


def _describe_bad_values(error: ValidationError, *, with_values: bool = True) -> list[str]:
    """One line for each bad setting. The value of a setting with `repr=False` is not shown: it may hold a secret."""
    lines: dict[str, str] = {}
    for problem in error.errors(include_url=False):
        name = str(problem["loc"][0])
        is_secret = name in Settings.model_fields and not Settings.model_fields[name].repr
        value = "" if is_secret or not with_values else f"={problem['input']}"
        lines.setdefault(name, f"{PREFIX}{name.upper()}{value}: {problem['msg'].removeprefix('Value error, ')}")
    return list(lines.values())


def _describe_unknown_names() -> list[str]:
    """One line for each unknown PROMPTREEL_ variable: a misspelled setting must not be ignored silently."""
    known, foreign = [PREFIX + name.upper() for name in Settings.model_fields], list_kubernetes_variables()
    lines = []
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX) and name.upper() not in known and name not in foreign:
            close = difflib.get_close_matches(name.upper(), known, n=1)
            lines.append(f"{name}: there is no such setting" + (f"; do you mean {close[0]}?" if close else "."))
    return lines
