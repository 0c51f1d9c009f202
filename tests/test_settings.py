from __future__ import annotations

import os
from ipaddress import ip_network
from pathlib import Path

import pytest
from pydantic import ValidationError

from promptreel.api.problems import GENERATIONS
from promptreel.bootstrap import environment_of
from promptreel.errors import BadConfiguration
from promptreel.settings import PREFIX, Settings, list_kubernetes_variables, load_settings

SETTINGS_PAGE = Path(__file__).parents[1] / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)


def describe(name: str) -> str:
    """The row of docs/settings.md for a setting."""
    field = Settings.model_fields[name]
    default = "" if field.default in (None, ()) else f"`{str(field.default).replace('False', 'false')}`"
    return f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |"


def test_page_lists_every_setting_with_its_default_and_description() -> None:
    rows = [line for line in SETTINGS_PAGE.read_text().splitlines() if line.startswith(f"| `{PREFIX}")]

    assert rows == [describe(name) for name in Settings.model_fields]


def test_defaults_need_no_environment() -> None:
    settings = load_settings()

    assert settings.data_dir == Path.home() / ".local/share/promptreel"
    assert settings.database == Path.home() / ".local/share/promptreel/promptreel.db"
    assert (settings.host, settings.port, settings.workers) == ("127.0.0.1", 8000, 1)
    assert settings.threads_per_worker == os.cpu_count()


def test_settings_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    values = {
        "DATA_DIR": str(tmp_path),
        "PORT": "9000",
        "WORKERS": "64",
        "PUBLIC_URL": "https://video.example.com/",
        "TRUSTED_PROXIES": "10.0.0.0/8, 127.0.0.1,::1",
        "CORS_ORIGINS": "https://App.example.com, http://localhost:3000",
        "REAL_STATUS_CODES": "v4, enterprise",
        "LOG_LEVEL": "debug",
        "FETCH_ALLOW_HOSTS": "Media.internal., my_store",
        "FETCH_ALLOW_NETWORKS": "10.0.0.0/8",
        "FETCH_ALLOW_PORTS": "9000, 8443",
        "THREADS": "",
    }
    for name, value in values.items():
        monkeypatch.setenv(PREFIX + name, value)

    settings = load_settings()

    assert settings.database == tmp_path / "promptreel.db"
    assert settings.port == 9000
    assert settings.public_url == "https://video.example.com"
    assert settings.trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("127.0.0.1/32"), ip_network("::1/128"))
    assert settings.cors_origins == ("https://app.example.com", "http://localhost:3000")
    assert settings.real_status_codes == ("v4", "enterprise")
    assert settings.log_level == "debug"
    assert settings.fetch_allow_hosts == ("media.internal", "my_store")
    assert settings.fetch_allow_networks == (ip_network("10.0.0.0/8"),)
    assert settings.fetch_allow_ports == (9000, 8443)
    assert settings.threads_per_worker == max(1, (os.cpu_count() or 1) // 64)


def test_aliases_of_models_are_pairs_and_reach_the_child_processes_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTREEL_MODEL_ALIASES", "sora-2=cutout, sora-2-pro = my_model")

    settings = load_settings()

    assert settings.models_by_alias == {"sora-2": "cutout", "sora-2-pro": "my_model"}
    assert environment_of(settings)["PROMPTREEL_MODEL_ALIASES"] == "sora-2=cutout,sora-2-pro=my_model"
    for bad in ("sora-2", "=cutout", "sora-2=", "a=b=c"):
        monkeypatch.setenv("PROMPTREEL_MODEL_ALIASES", bad)
        with pytest.raises(BadConfiguration, match="give NAME=MODEL for each, separated by commas, such as sora-2=cutout"):
            load_settings()


def test_command_line_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTREEL_PORT", "9000")

    assert load_settings(port=9001).port == 9001
    assert load_settings(port=None).port == 9000


def test_every_bad_value_is_listed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = {
        "PORT": "70000",
        "WORKERS": "no",
        "PUBLIC_URL": "example.com",
        "CORS_ORIGINS": "https://app.example.com/",
        "TRUSTED_PROXIES": "10.0.0.1/8",
        "FETCH_ALLOW_HOSTS": "a.test, http://b.test",
        "FETCH_ALLOW_PORTS": "0",
        "REAL_STATUS_CODES": "v3,v7",
    }
    for name, value in bad.items():
        monkeypatch.setenv(PREFIX + name, value)
    monkeypatch.setenv("PROMPTREEL_PROT", "1")

    with pytest.raises(BadConfiguration) as caught:
        load_settings(log_level="loud")

    lines = str(caught.value).splitlines()
    assert lines[0] == "These settings cannot be used:"
    assert "  PROMPTREEL_PORT=70000: Input should be less than or equal to 65535" in lines
    assert "  PROMPTREEL_PUBLIC_URL=example.com: give a whole address, such as https://video.example.com" in lines
    assert "  PROMPTREEL_PROT: there is no such setting; do you mean PROMPTREEL_PORT?" in lines
    named = {line.strip().split("=")[0].split(":")[0] for line in lines[1:]}
    assert named == {PREFIX + name for name in (*bad, "LOG_LEVEL", "PROT")}


def test_statuses_can_be_made_real_for_each_generation_that_answers_200() -> None:
    assert load_settings(real_status_codes=", ".join(GENERATIONS)).real_status_codes == GENERATIONS


def test_variable_that_is_no_setting_stops_the_start_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTREEL_COLOUR", "red")

    with pytest.raises(BadConfiguration, match="PROMPTREEL_COLOUR: there is no such setting"):
        load_settings()


def test_what_kubernetes_tells_of_services_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {
        "SERVICE_HOST": "10.0.0.1",
        "SERVICE_PORT": "8000",
        "SERVICE_PORT_HTTP": "8000",
        "PORT": "tcp://10.0.0.1:8000",
        "PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "PORT_8000_TCP_PROTO": "tcp",
        "PORT_8000_TCP_PORT": "8000",
        "PORT_8000_TCP_ADDR": "10.0.0.1",
        "PORT_53_UDP": "udp://10.0.0.1:53",
        "API_V2_SERVICE_HOST": "10.0.0.2",
        "API_V2_PORT": "tcp://10.0.0.2:80",
        "API_V2_PORT_80_TCP_ADDR": "10.0.0.2",
    }
    for name, value in told.items():
        monkeypatch.setenv(PREFIX + name, value)

    assert load_settings().port == 8000
    assert load_settings(port=9000).port == 9000
    assert list_kubernetes_variables() == sorted(PREFIX + name for name in told)

    monkeypatch.setenv("PROMPTREEL_API_V2_PORT", "80")
    monkeypatch.setenv("PROMPTREEL_PORT", "tcp:8000")
    with pytest.raises(BadConfiguration) as caught:
        load_settings()
    assert [line.split("=")[0].split(":")[0].strip() for line in str(caught.value).splitlines()[1:]] == [
        "PROMPTREEL_PORT",
        "PROMPTREEL_API_V2_PORT",
    ]


def test_settings_do_not_change_and_do_not_show_the_database_password() -> None:
    settings = load_settings(database_url="postgresql+psycopg://user:secret@db/promptreel")

    assert settings.database == "postgresql+psycopg://user:secret@db/promptreel"
    assert "secret" not in repr(settings)
    with pytest.raises(ValidationError):
        settings.port = 1
