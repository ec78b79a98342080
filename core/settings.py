"""The host's decisions: where it listens, what it allows, where its folders are. Frozen, made once, passed in."""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from platformdirs import user_data_path
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from core.errors import RequestError
from core.request import GenerationRequest, allowed, bounds, reject
from core.sizes import GB, MB

Mode = Literal["local", "lan", "share", "space"]
VERSION = "0.1.0"
ROOT = Path(__file__).resolve().parent.parent
HOST_OWNER = "local"  # whose pictures are made at the machine itself; everybody else is a visitor
NEWCOMERS = "newcomers"  # the address of visitors who came just now and whom no address tells apart
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
OWN_PATHS = "assets|config|gradio_api|inputs|livez|login|logout|page|pictures|pwa_icon|readyz|static|svelte"
ROOT_PATH = re.compile(rf"(?!/({OWN_PATHS})(/|$))(/[A-Za-z0-9_~-]+)+")


class Limits(BaseModel):
    """What one visitor may ask of the host. Bytes are `inf` where only the disk itself ends."""

    model_config = ConfigDict(frozen=True)

    budget: float = Field(description="megapixels × steps × pictures of one job")
    max_pixels: int = Field(description="pixels of a picture")
    max_steps: int = Field(description="steps")
    jobs_per_owner: int = Field(description="open jobs of one visitor")
    jobs_per_address: float = Field(
        inf, description="open jobs of one internet address, or of all programs that keep no cookie"
    )
    jobs_of_newcomers: float = Field(
        inf, description="open jobs of all who came within ten minutes, where no address tells them apart"
    )
    jobs_in_all: int = Field(description="open jobs in all")
    upload_bytes: int = Field(description="upload")
    uploads_per_owner: float = Field(inf, description="uploads kept for one visitor")
    uploads_per_address: float = Field(
        inf, description="uploads kept for one internet address, or for all programs that keep no cookie"
    )
    uploads_in_all: float = Field(inf, description="uploads kept in all, for a day at most")
    disk_per_owner: float = Field(inf, description="kept on disk for one visitor")
    disk_in_all: float = Field(inf, description="kept on disk in all")
    share_of_disk: float = Field(inf, description="of the disk itself in use, once less than that is free")

    def check(self, request: GenerationRequest) -> None:
        """Raises RequestError if a resolved `request` asks for more than is allowed."""
        for run in request.passes:
            if run.of > self.max_steps:
                raise reject(run.steps_field, run.of, f"at most {self.max_steps} on this server")
            self._check_size(run.field, run.size)
        if request.outpaint:  # where only the masked part is redrawn, no pass is as large as this
            self._check_size("outpaint", request.frame_size)
        work = sum(run.work for run in request.passes) * max(1, request.predictions / 2)  # guidance is the usual
        if work > self.budget * 1e6:
            asked = " + ".join(map(str, dict.fromkeys(request.passes)))
            raise reject("steps", asked, f"a product of at most {self.budget:g} million on this server")

    def _check_size(self, field: str, size: tuple[int, int]) -> None:
        if size[0] * size[1] > self.max_pixels:
            raise reject(field, f"{size[0]} × {size[1]}", f"at most {self.max_pixels:,} pixels here")


LIMITS: dict[Mode, Limits] = {
    "local": Limits(
        budget=8_000,
        max_pixels=4096 * 4096,
        max_steps=150,
        jobs_per_owner=100,
        jobs_in_all=100,
        upload_bytes=256 * MB,
    ),
    "lan": Limits(
        budget=2_000,
        max_pixels=2048 * 2048,
        max_steps=150,
        jobs_per_owner=8,
        jobs_per_address=16,
        jobs_of_newcomers=75,
        jobs_in_all=100,
        upload_bytes=64 * MB,
        uploads_per_owner=2 * GB,
        uploads_per_address=4 * GB,
        uploads_in_all=16 * GB,
        disk_per_owner=16 * GB,
        disk_in_all=64 * GB,
    ),
    "share": Limits(
        budget=200,
        max_pixels=2**20,
        max_steps=50,
        jobs_per_owner=2,
        jobs_per_address=16,
        jobs_of_newcomers=24,
        jobs_in_all=32,
        upload_bytes=32 * MB,
        uploads_per_owner=256 * MB,
        uploads_per_address=512 * MB,
        uploads_in_all=2 * GB,
        disk_per_owner=1 * GB,
        disk_in_all=8 * GB,
    ),
    "space": Limits(
        budget=100,
        max_pixels=2**20,
        max_steps=50,
        jobs_per_owner=1,
        jobs_per_address=4,
        jobs_of_newcomers=24,
        jobs_in_all=32,
        upload_bytes=32 * MB,
        uploads_per_owner=128 * MB,
        uploads_per_address=256 * MB,
        uploads_in_all=2 * GB,
        disk_per_owner=256 * MB,
        disk_in_all=8 * GB,
        share_of_disk=0.9,
    ),
}


class Settings(BaseSettings):
    """Every field is a flag of app.py and a DARKROOM_* variable; a flag wins over its variable."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        env_prefix="DARKROOM_",
        env_prefix_target="all",
        cli_prog_name="app.py",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        env_ignore_empty=True,
    )

    port: int = Field(7860, ge=1, le=65535, description="port of the page")
    host: str = Field("127.0.0.1", description="address to listen on; beyond loopback a login is required")
    hosts: str = Field(
        "",
        description="more names to answer to, with commas between, for a server behind a proxy; a login is required",
    )
    trusted_proxy: str = Field(
        "", description="addresses or networks, with commas between, of proxies that tell where visitors come from"
    )
    root_path: str = Field("", description="path below which a proxy serves this page, such as /sd")
    share: bool = Field(False, description="a public link for friends; a login is made if --auth gives none")
    auth: str | None = Field(None, description="user:password that visitors must give", repr=False)
    model_folders: Annotated[tuple[Path, ...], NoDecode] = Field(
        (ROOT / "models",),
        validation_alias="models",
        min_length=1,
        description="folder of checkpoints, controlnet, loras, embeddings, preprocessors, previews, text_encoders, "
        "upscalers, vae; given again, folders of other tools, which are only read",
    )
    data: Path = Field(user_data_path("darkroom", appauthor=False), description="folder of history and pictures")
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:1 or mps")
    previews: bool = Field(True, description="show the picture develop, at every step")
    offline: bool = Field(False, description="ask the hub for nothing")
    idle_unload: float = Field(
        0, ge=0, le=10_080, description="minutes without a picture after which models leave the memory; 0: never"
    )

    @field_validator("model_folders", mode="before")
    @classmethod
    def _folders(cls, folders: Any) -> Any:
        """A variable joins several as the system joins paths; a comma is a character like any other."""
        if isinstance(folders, str):
            return [folder for folder in folders.split(os.pathsep) if folder]
        return [folders] if isinstance(folders, Path) else folders

    @field_validator("model_folders")
    @classmethod
    def _absolute_folders(cls, folders: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(folder.absolute() for folder in folders)

    @field_validator("data")
    @classmethod
    def _absolute(cls, folder: Path) -> Path:
        """As it is meant where the program is started; a server then stands elsewhere, see core/room.py."""
        return folder.absolute()

    @field_validator("auth")
    @classmethod
    def _user_and_password(cls, auth: str | None) -> str | None:
        if auth is not None and not all(auth.partition(":")):
            raise ValueError("user:password")
        return auth

    @field_validator("host")
    @classmethod
    def _address(cls, host: str) -> str:
        return host.strip("[]").lower()  # IPv6 addresses have brackets in URLs only

    @field_validator("hosts")
    @classmethod
    def _names(cls, hosts: str) -> str:
        if not all(HOST_NAME.fullmatch(name) for name in _split(hosts)):
            raise ValueError("host names, with commas between")
        return hosts

    @field_validator("trusted_proxy")
    @classmethod
    def _networks(cls, proxies: str) -> str:
        try:
            _read_networks(proxies)
        except ValueError:
            raise ValueError("addresses or networks, such as 127.0.0.1 or 10.0.0.0/8, with commas between") from None
        return proxies

    @field_validator("root_path")
    @classmethod
    def _path(cls, path: str) -> str:
        if path and not is_root_path(path):
            raise ValueError("a path such as /sd, of letters and digits, that is none of the page's own")
        return path

    @classmethod
    def from_command_line(cls, arguments: Sequence[str]) -> Self:
        """The settings that flags and DARKROOM_* variables ask for; an unknown flag or --help ends the program.

        Raises RequestError for a value that is not allowed, naming its flag and variable.
        """
        repeated = argparse.ArgumentParser("app.py", add_help=False, allow_abbrev=False)
        repeated.add_argument("--models", action="append")  # pydantic-settings would cut each at its commas
        folders, others = repeated.parse_known_args(arguments)
        try:
            return cls(_cli_parse_args=others, **vars(folders) if folders.models else {})
        except ValidationError as error:
            raise _explain(error) from None

    @property
    def models(self) -> Path:
        """Darkroom's own folder of models: what is downloaded, uploaded and taught goes there."""
        return self.model_folders[0]

    @property
    def address(self) -> str:
        """Where to listen: a Space is reached from outside its container."""
        return "0.0.0.0" if self.mode == "space" else self.host

    @property
    def names(self) -> frozenset[str]:
        """The host names under which the public reaches this server, as far as they are known before it starts."""
        return frozenset(_split(f"{self.hosts},{os.environ.get('SPACE_HOST', '')}"))

    @property
    def proxies(self) -> tuple[Network, ...]:
        """The proxies of the host's own that may say where a visitor comes from."""
        return _read_networks(self.trusted_proxy)

    @property
    def mode(self) -> Mode:
        """Who may come: local (this machine), lan (this network, or whoever a proxy brings), share (a link), space
        (anyone).
        """
        if os.environ.get("SPACE_ID"):
            return "space"
        if self.share:
            return "share"
        return "local" if is_loopback(self.host) and not _split(self.hosts) else "lan"

    @property
    def has_login(self) -> bool:
        """Whether visitors must log in; where strangers of a network or a link may come, always."""
        return self.auth is not None or self.mode in ("lan", "share")

    @property
    def limits(self) -> Limits:
        return LIMITS[self.mode]


def _explain(error: ValidationError) -> RequestError:
    """The first of pydantic's complaints, in our words. Where a value may be secret, it is not shown."""
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0])
    field = next(field for own, field in Settings.model_fields.items() if name in (own, field.validation_alias))
    value = first["input"] if field.repr else "***"
    ours = first.get("ctx", {}).get("error")
    use = str(ours) if ours else allowed(field) if "ge" in bounds(field) else str(field.description)
    return RequestError(name, value, use, f"--{name.replace('_', '-')} (DARKROOM_{name.upper()})")


def _split(names: str) -> list[str]:
    return [name for name in (part.strip().lower() for part in names.split(",")) if name]


def _read_networks(text: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(part) for part in _split(text))


def is_root_path(path: str) -> bool:
    """Whether a page can be served below `path`: with a slash before each part, and told from our own paths, so that
    it is known whether a proxy took it away.
    """
    return ROOT_PATH.fullmatch(path) is not None


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
