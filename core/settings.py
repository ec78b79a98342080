"""The host's decisions: where it listens, what it allows, where its folders are. Frozen, made once, passed in."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Literal

from platformdirs import user_data_path
from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from core.request import GenerationRequest, reject

Mode = Literal["local", "lan", "share", "space"]
VERSION = "0.1.0"
ROOT = Path(__file__).resolve().parent.parent


class Limits(BaseModel):
    """What one visitor may ask of the host. `budget` counts megapixel-steps: steps × megapixels × pictures."""

    model_config = ConfigDict(frozen=True)

    budget: float
    max_pixels: int
    max_steps: int
    jobs_per_owner: int
    jobs_in_all: int
    upload_bytes: int

    def check(self, request: GenerationRequest) -> None:
        """Raises RequestError if a resolved `request` (width and height known) asks for more than is allowed."""
        assert request.width and request.height
        pixels = request.width * request.height
        if request.steps > self.max_steps:
            raise reject("steps", request.steps, f"at most {self.max_steps} on this server")
        if pixels > self.max_pixels:
            raise reject("width", f"{request.width} × {request.height}", f"at most {self.max_pixels:,} pixels here")
        if request.steps_run * pixels * request.batch_size > self.budget * 1e6:
            asked = f"{request.steps_run} steps × {request.width} × {request.height} × {request.batch_size}"
            raise reject("steps", asked, f"a product of at most {self.budget:g} million on this server")


MB = 2**20
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
        jobs_in_all=100,
        upload_bytes=64 * MB,
    ),
    "share": Limits(
        budget=200, max_pixels=2**20, max_steps=50, jobs_per_owner=2, jobs_in_all=32, upload_bytes=32 * MB
    ),
    "space": Limits(
        budget=100, max_pixels=2**20, max_steps=50, jobs_per_owner=1, jobs_in_all=32, upload_bytes=32 * MB
    ),
}


class Settings(BaseSettings):
    """Every field is a flag of app.py and a DARKROOM_* variable; a flag wins over its variable."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        env_prefix="DARKROOM_",
        cli_prog_name="app.py",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
    )

    port: int = Field(7860, ge=1, le=65535, description="port of the page")
    host: str = Field("127.0.0.1", description="address to listen on; beyond loopback a login is required")
    share: bool = Field(False, description="a public link for friends; a login is made if --auth gives none")
    auth: str | None = Field(None, description="user:password that visitors must give", repr=False)
    models: Path = Field(ROOT / "models", description="folder of checkpoints, controlnet, loras, embeddings, vae")
    data: Path = Field(user_data_path("darkroom", appauthor=False), description="folder of history and pictures")
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:1 or mps")
    previews: bool = Field(True, description="show the picture develop, at every step")

    @field_validator("auth")
    @classmethod
    def _user_and_password(cls, auth: str | None) -> str | None:
        if auth is not None and not all(auth.partition(":")):
            raise ValueError("use user:password")
        return auth

    @property
    def mode(self) -> Mode:
        """Who may come: local (this machine), lan (this network), share (a link), space (anyone)."""
        if os.environ.get("SPACE_ID"):
            return "space"
        if self.share:
            return "share"
        return "local" if is_loopback(self.host) else "lan"

    @property
    def limits(self) -> Limits:
        return LIMITS[self.mode]


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
