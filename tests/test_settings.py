from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from core.errors import RequestError
from core.request.generation import GenerationRequest
from core.settings import LIMITS, Settings
from core.sizes import in_words


def test_a_flag_wins_over_its_variable_and_a_variable_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.from_command_line([]).port == 7860
    monkeypatch.setenv("DARKROOM_PORT", "7001")
    monkeypatch.setenv("DARKROOM_DATA", "")  # set to nothing is not set
    assert Settings.from_command_line([]).port == 7001
    assert Settings.from_command_line(["--port", "7002"]).port == 7002
    assert Settings().data == Settings.model_fields["data"].default


def test_every_flag() -> None:
    flags = "--port 1 --host ::1 --hosts a.b,C.d --share --auth u:p:q --models m --data d --device cuda:1"
    proxies = ["--trusted-proxy", "127.0.0.1, 10.0.0.0/8", "--root-path", "/a/sd"]
    settings = Settings.from_command_line([*flags.split(), *proxies])
    assert settings.root_path == "/a/sd"
    assert (settings.port, settings.host, settings.share, settings.auth) == (1, "::1", True, "u:p:q")
    here = Path.cwd()  # where flags are meant; the server will stand elsewhere
    assert (settings.models, settings.data, settings.device) == (here / "m", here / "d", "cuda:1")
    assert settings.names == {"a.b", "c.d"}
    assert [str(proxy) for proxy in settings.proxies] == ["127.0.0.1/32", "10.0.0.0/8"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "abc"], "--port (DARKROOM_PORT): “abc” is not allowed; use a whole number from 1 to 65535."),
        (["--port", "0"], "--port (DARKROOM_PORT): “0” is not allowed; use a whole number from 1 to 65535."),
        (["--port=65536"], "--port (DARKROOM_PORT): “65536” is not allowed; use a whole number from 1 to 65535."),
        (
            ["--device", "gpu"],
            "--device (DARKROOM_DEVICE): “gpu” is not allowed; use auto, cpu, cuda, cuda:1 or mps.",
        ),
        (["--auth", "hunter2"], "--auth (DARKROOM_AUTH): “***” is not allowed; use user:password."),
        (["--auth", "hunter2:"], "--auth (DARKROOM_AUTH): “***” is not allowed; use user:password."),
        (
            ["--hosts", "http://a.b/"],
            "--hosts (DARKROOM_HOSTS): “http://a.b/” is not allowed; use host names, with commas between.",
        ),
        (
            ["--trusted-proxy", "nginx"],
            "--trusted-proxy (DARKROOM_TRUSTED_PROXY): “nginx” is not allowed; "
            "use addresses or networks, such as 127.0.0.1 or 10.0.0.0/8, with commas between.",
        ),
        *(
            (
                ["--root-path", path],
                f"--root-path (DARKROOM_ROOT_PATH): “{path}” is not allowed; use a path such as /sd, of letters and "
                "digits, that is none of the page's own.",
            )
            for path in ("sd", "/sd/", "/", "//sd", "/a b", "/sd/../x", "https://a.b/sd", "/pictures", "/login/sd")
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_flag_and_what_is_allowed(arguments: list[str], message: str) -> None:
    with pytest.raises(RequestError) as raised:
        Settings.from_command_line(arguments)
    assert str(raised.value) == message


def test_a_wrong_variable_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_SHARE", "perhaps")
    with pytest.raises(RequestError, match="DARKROOM_SHARE"):
        Settings.from_command_line([])


@pytest.mark.parametrize("arguments", [["--bogus"], ["extra"], ["--port"]])
def test_an_unknown_flag_ends_the_program(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        Settings.from_command_line(arguments)
    assert raised.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        Settings.from_command_line(["--help"])
    assert raised.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for own, field in Settings.model_fields.items():
        name = str(field.validation_alias or own)
        assert f"--{name.replace('_', '-')}" in shown
        assert str(field.description) in shown


def test_the_mode_follows_from_who_may_come(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [Settings(host=host).mode for host in ("127.0.0.1", "localhost", "[::1]", "127.9.9.9")] == ["local"] * 4
    assert [Settings(host=host).mode for host in ("0.0.0.0", "::", "192.168.1.5", "mybox")] == ["lan"] * 4
    assert Settings(hosts="pics.example.org").mode == "lan"  # a proxy brings whoever asks
    assert Settings(hosts=" , ").mode == "local"
    assert Settings(share=True).mode == "share"
    assert Settings().address == "127.0.0.1"
    monkeypatch.setenv("SPACE_ID", "a/b")
    monkeypatch.setenv("SPACE_HOST", "a-b.hf.space")
    space = Settings(share=True)
    assert (space.mode, space.address, space.names) == ("space", "0.0.0.0", {"a-b.hf.space"})


def test_strangers_may_ask_for_less() -> None:
    local, lan, share, space = (LIMITS[mode] for mode in ("local", "lan", "share", "space"))
    for field in type(local).model_fields:
        values = [getattr(limits, field) for limits in (local, lan, share, space)]
        assert values == sorted(values, reverse=True)
    assert (share.max_pixels, share.max_steps, share.jobs_per_owner) == (2**20, 50, 2)
    assert (space.max_pixels, space.max_steps, space.jobs_per_owner) == (2**20, 50, 1)


def test_what_outpainting_makes_counts_even_where_only_the_mask_is_redrawn() -> None:
    wide = GenerationRequest(
        image=Image.new("RGB", (2048, 8)),
        outpaint={"up": 2048, "down": 2048},
        width=512,
        height=512,
        padding_mask_crop=32,
        guidance_scale=1.0,
    )
    with pytest.raises(RequestError, match=r"Outpaint.*2048 × 4104"):
        LIMITS["space"].check(wide)
    LIMITS["local"].check(wide)


def test_bytes_are_said_in_words() -> None:
    sizes = (1000, 256 * 2**20, 2**30, 1.5 * 2**30, 24 * 2**30)
    assert [in_words(size) for size in sizes] == ["under 1 MB", "256 MB", "1 GB", "1.5 GB", "24 GB"]


def test_a_password_is_not_printed_with_the_settings() -> None:
    assert "hunter2" not in repr(Settings(auth="ann:hunter2"))


def test_prompts_that_add_up_count_as_the_work_they_are() -> None:
    def request(prompt: str) -> GenerationRequest:
        return GenerationRequest(prompt=prompt, width=1024, height=1024, steps=50, guidance_scale=7.0)

    LIMITS["space"].check(request("a"))
    with pytest.raises(RequestError, match="a product of at most 100 million"):
        LIMITS["space"].check(request("a AND b AND c"))
