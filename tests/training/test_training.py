"""The recipe of the pocket models, on seconds of training."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from core.errors import DarkroomError
from core.library.checkpoints import scan
from core.settings import ROOT
from core.sizes import MB
from tests import colours
from training import addons, base, judge, measures
from training.captions import caption, plain_caption, vocabulary
from training.domain import BACKGROUNDS, COLOURS, SIZES, SUBJECTS, Scene, Size, Style, draw_scene
from training.pictures import Pictures
from training.render import render
from training.runs import Clock, Interrupted, Plan, Stage, batch_of
from training.tokenizer import make_tokenizer
from training.unet import UnetShape, noise_weights
from training.vae import COARSE, DECODER, Head, VaeShape, encode, make_vae, vae_stage, whiten

POCKET = ROOT / "models" / "checkpoints" / "pocket"
ADDONS = sorted(
    {*(ROOT / "models").glob("*/pocket-*/*.safetensors"), *(ROOT / "models").glob("*/pocket-*.safetensors")}
)
TINY = base.Recipe(
    vae=((Plan("vae", 3, 3, 1e-3), COARSE), (Plan("vae-decoder", 2, 3, 1e-3), DECODER)),
    small=Plan("small", 2, 2, 1e-3),
    large=Plan("large", 2, 2, 1e-3),
    more=(Plan("more-small", 2, 2, 1e-3), Plan("more", 2, 2, 1e-3)),
    vae_pictures=8,
    small_pictures=4,
    large_pictures=4,
    vae_shape=VaeShape((4, 4, 8, 8)),
    unet_shape=UnetShape((8, 8, 16), heads=2, text_width=16, text_layers=1, norm_groups=4),
    small_side=64,
)


@pytest.fixture(scope="module")
def eye() -> judge.Judge:
    return judge.load_judge()


def test_a_caption_is_true_of_its_pixels() -> None:
    """Place, size, count and colours, read off the silhouette."""
    rng = np.random.default_rng(0)
    for subject in SUBJECTS:
        left, right = (
            render(Scene(subject, "red", "blue", position=p), rng).silhouette > 0 for p in ("left", "right")
        )
        assert np.argwhere(left)[:, 1].mean() < 110 < 146 < np.argwhere(right)[:, 1].mean()
        small, large = (
            render(Scene(subject, "red", "blue", size=s), rng).silhouette.sum() for s in ("small", "large")
        )
        assert small * 3 < large
        two, three = (render(Scene(subject, "red", "blue", count=n), rng).silhouette for n in (2, 3))
        assert [_groups(two), _groups(three)] == [2, 3], subject
    for front, back in zip(COLOURS, reversed(COLOURS), strict=True):
        pixels = render(Scene("square", front, back, size="large"), rng).pixels
        assert colours.nearest(pixels[128, 128]) == front
        assert colours.nearest(pixels[4, 4]) == back


def _groups(silhouette: np.ndarray) -> int:
    """How many runs of columns have something in them."""
    columns = (silhouette > 0).any(axis=0).astype(int)
    return int((np.diff(columns, prepend=0) == 1).sum())


def test_captions_name_what_is_there_and_every_word_is_one_token() -> None:
    rng, tokenizer = np.random.default_rng(1), make_tokenizer()
    words = set(vocabulary())
    for _ in range(300):
        scene = draw_scene(rng)
        text = caption(scene, rng)
        assert not text or scene.colour in text
        assert set(text.replace(",", " ").split()) <= words
        assert len(tokenizer.tokenize(text)) == len(text.replace(",", " , ").split())
    assert plain_caption(Scene("fish", "orange", "sea", count=2)) == "two orange fish on the sea"


def test_every_process_reads_words_as_the_same_tokens() -> None:
    """Or a run that goes on in another process would go on with other words."""
    program = "from training.tokenizer import make_tokenizer; print(sorted(make_tokenizer().get_vocab().items()))"
    told = [
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert told[0] == told[1] == f"{sorted(make_tokenizer().get_vocab().items())}\n"


def test_the_judged_captions_were_never_trained_on() -> None:
    cases = judge.cases()
    assert cases == judge.draw_cases()
    held_out = {(case.scene.subject, case.scene.colour, case.scene.background) for case in cases}
    rng = np.random.default_rng(2)
    trained = {(s.subject, s.colour, s.background) for s in (draw_scene(rng) for _ in range(3000))}
    assert len(cases) == 200
    assert len({case.caption for case in cases}) == 200
    assert not held_out & trained
    assert {case.scene.subject for case in cases} == set(SUBJECTS)
    assert {case.scene.background for case in cases} == set(BACKGROUNDS)


def test_the_judge_knows_real_renders(eye: judge.Judge) -> None:
    scores = judge.own_score(eye, 100)
    assert all(right >= 0.9 * of for right, of in scores.values()), scores


def test_a_score_counts_only_what_was_asked() -> None:
    asked = [Scene("fish", "red", "sea", count=2), Scene("star", "blue", "red", position="left")]
    seen = [Scene("fish", "red", "sea", count=3), Scene("star", "blue", "pink", position="left")]
    scores = judge.score(asked, seen)
    assert scores["subject"] == (2, 2)
    assert scores["all three"] == (1, 2)
    assert scores["count"] == (0, 1)
    assert scores["position"] == (1, 1)


def test_a_batch_goes_through_all_pictures_once_an_epoch() -> None:
    seen = np.concatenate([batch_of(step, 10, 4, 7) for step in range(5)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert list(seen[:10]) != list(seen[10:])


def stage(steps: int = 6, seed: int = 0, muon: bool = False) -> tuple[Stage, torch.nn.Module]:
    torch.manual_seed(seed)
    vae = make_vae(VaeShape((4, 4, 16, 16)))
    return vae_stage(vae, Head(4), Pictures(4).pixels(64), Plan("vae", steps, 3, 1e-3, muon=muon)), vae


class _Ticks(Clock):
    """A clock that is over after so many looks at it."""

    def __init__(self, looks: int) -> None:
        super().__init__(None)
        self._looks = looks

    @property
    def is_over(self) -> bool:
        self._looks -= 1
        return self._looks < 0


@pytest.mark.parametrize("muon", [False, True])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, muon: bool) -> None:
    whole, expected = stage(muon=muon)
    whole.train(tmp_path / "whole", Clock(None))
    first, _ = stage(muon=muon)
    with pytest.raises(Interrupted, match="stopped at step 2 of 6"):
        first.train(tmp_path / "parts", _Ticks(2))
    second, resumed = stage(seed=1, muon=muon)  # its own weights are overwritten
    second.train(tmp_path / "parts", Clock(None))
    for mine, theirs in zip(resumed.state_dict().values(), expected.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
    other, _ = stage(muon=not muon)
    with pytest.raises(DarkroomError, match="another recipe"):
        other.train(tmp_path / "whole", Clock(None))


def test_orthogonal_steps_move_every_row_of_a_matrix_alike(tmp_path: Path) -> None:
    """What AdamW does to biases alone; a matrix's step has singular values that are all about the same."""
    torch.manual_seed(0)
    layer, inputs = torch.nn.Conv2d(16, 32, 3), torch.randn(4, 16, 8, 8)
    before = layer.weight.detach().clone()
    plan = Plan("layer", 1, 4, 1e-2, ema=0.0, weight_decay=0.0, muon=True)
    Stage(plan, {"layer": layer}, lambda _: layer(inputs).square().mean(), {}).train(tmp_path, Clock(None))
    moved = torch.linalg.svdvals((layer.weight.detach() - before).movedim(1, -1).flatten(1))
    assert moved.min() > 0.3 * moved.max()


def test_steps_in_which_hardly_anything_is_seen_weigh_in_full() -> None:
    """There a model learns where to put what; steps in which all is seen already teach little."""
    weights = noise_weights(torch.tensor([0, 700, 850, 999]))
    assert weights[0] < 0.01
    assert weights[1:].min() > 0.95


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    stage()[0].train(tmp_path, Clock(None))
    with pytest.raises(DarkroomError, match="it is of another recipe"):
        stage(steps=7)[0].train(tmp_path, Clock(None))
    (tmp_path / "vae.pt").write_bytes(b"half")
    with pytest.raises(DarkroomError, match="cannot be read"):
        stage()[0].train(tmp_path, Clock(None))


def test_whitened_latents_decode_as_before_and_have_unit_covariance() -> None:
    vae, head, pixels = make_vae(TINY.vae_shape).eval(), Head(4), Pictures(6).pixels()
    before = encode(vae, pixels)
    with torch.no_grad():
        drawn, read = vae.decode(before).sample, head(before)
        whiten(vae, head, pixels)
        after = encode(vae, pixels)
        torch.testing.assert_close(vae.decode(after).sample, drawn, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(head(after), read, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(torch.cov(after.movedim(1, -1).flatten(0, 2).T), torch.eye(4), atol=0.02, rtol=0)


def test_the_whole_recipe_makes_a_checkpoint_and_addons_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "CHECKED", Pictures(2, salt=9))
    out = tmp_path / "models" / "checkpoints" / "mini"
    base.train_pocket(TINY, tmp_path / "run", Clock(None), out)
    (found,) = scan(out.parent)
    assert found.problem is None
    assert (found.family, found.native_size) == ("sd1", 256)
    assert found.latent_format is not None
    base.train_more(TINY, out, tmp_path / "on", Clock(None), tmp_path / "models" / "checkpoints" / "later")
    later, _ = scan(out.parent)
    assert later.problem is None and later.latent_format == found.latent_format
    files = [f"{part}/{base.WEIGHTS}" for part in ("vae", "unet")] + ["text_encoder/model.safetensors"]
    assert [_same(out / file, out.parent / "later" / file) for file in files] == [True, False, False]
    with pytest.raises(DarkroomError, match="another recipe"):
        base.train_more(TINY, out.parent / "later", tmp_path / "on", Clock(None), out)

    plan = Plan("mini", 2, 2, 1e-3)
    net = addons.train_controlnet("fill", addons.Addon(plan, 3), out, tmp_path / "net", Clock(None))
    addons.save_controlnet(net, out, tmp_path / "net" / "out")
    begun = addons.Addon(Plan("more", 1, 2, 1e-3), 3, after="canny")
    with pytest.raises(DarkroomError, match="first run python -m training controlnet canny"):
        addons.train_controlnet("fill", begun, out, tmp_path / "net", Clock(None))
    addons.save_controlnet(net, out, tmp_path / "models" / "controlnet" / "pocket-canny")
    went_on = addons.train_controlnet("fill", begun, out, tmp_path / "net", Clock(None))
    kept = {key: value.float() for key, value in net.state_dict().items()}
    moved = max((value - kept[key]).abs().max() for key, value in went_on.state_dict().items())
    assert 0 < moved < 0.01
    unet = addons.train_lora("night", addons.Addon(plan, 3, rank=10), out, tmp_path / "lora", Clock(None))
    addons.save_lora(unet, "night", out, tmp_path / "night.safetensors")
    for file in (tmp_path / "net" / "out" / base.WEIGHTS, tmp_path / "night.safetensors"):
        assert _base_of(file) == base.base_hash(out)
    keys = load_file(tmp_path / "night.safetensors")
    assert {key.rpartition(".")[2] for key in keys} == {"weight", "alpha"}
    assert all(key.startswith("lora_unet_") for key in keys)
    layers = {name: layer for name, layer in unet.named_modules() if isinstance(layer, LoraLayer)}
    assert 3 * len(layers) == len(keys)
    for name, layer in layers.items():
        learned = _product(layer.lora_A["default"].weight, layer.lora_B["default"].weight)
        kohya = f"lora_unet_{name.replace('.', '_')}"
        saved = _product(keys[f"{kohya}.lora_down.weight"], keys[f"{kohya}.lora_up.weight"])
        assert len(keys[f"{kohya}.lora_down.weight"]) == keys[f"{kohya}.alpha"] == 8
        singular = torch.linalg.svdvals(learned)
        # The nearest of rank 8 is off by the ninth (Eckart and Young 1936); the rest is rounding to halves.
        assert singular[0] > 0
        assert torch.linalg.matrix_norm(learned - saved, 2) < singular[8:9].sum() + 2e-3 * singular[0]


def _product(down: Tensor, up: Tensor) -> Tensor:
    return up.detach().float().flatten(1) @ down.detach().float().flatten(1)


@pytest.mark.parametrize("file", ADDONS, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_what_is_shipped_belongs_to_the_base_that_is_shipped(file: Path) -> None:
    assert _base_of(file) == base.base_hash(POCKET)


def _same(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


def _base_of(file: Path) -> str:
    with safe_open(file, "np") as opened:
        return str(opened.metadata()[addons.BASE])


def test_what_is_shipped_is_small() -> None:
    """What is in git, and none of a developer's own models."""
    ours = [*POCKET.parent.parent.glob("*/pocket*")]
    sizes = [file.stat().st_size for one in ours for file in (one, *one.rglob("*")) if file.is_file()]
    assert sum(file.stat().st_size for file in POCKET.rglob("*") if file.is_file()) <= 26 * MB
    assert sum(sizes) <= 48 * MB
    assert max(sizes) <= 16 * MB


def _filled(style: Style, size: Size) -> float:
    return measures.filled(render(Scene("car", "red", "gray", size=size), np.random.default_rng(4), style).pixels)


def test_measures_tell_an_outline_and_a_night() -> None:
    scene = Scene("heart", "purple", "yellow", size="large")
    filled, night = (render(scene, np.random.default_rng(4), style) for style in ("filled", "night"))
    assert measures.overlap(measures.silhouette(filled.pixels), filled.silhouette > 0) > 0.9
    assert measures.daylight(night.pixels) < 20 < measures.daylight(filled.pixels)
    assert all(_filled("outline", size) < 0.5 * _filled("filled", size) for size in SIZES)
    edges = addons.canny(filled.pixels[None], filled.silhouette[None])[0]
    assert measures.edge_f1(filled.pixels, edges) > 0.99
    assert measures.edge_f1(filled.pixels, np.roll(edges, 40, axis=1)) < 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pocket", "--minutes", "0"], "--minutes: 0 is not allowed; use a number above 0."),
        (["judge", "tests"], "tests: is no checkpoint; give a folder in models/checkpoints."),
    ],
)
def test_bad_input_is_one_clear_error(arguments: list[str], message: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "training", *arguments, "--run", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == message
    assert "Traceback" not in done.stderr


def test_a_broken_checkpoint_is_named(tmp_path: Path) -> None:
    from training.exam import engine_for

    broken = tmp_path / "checkpoints" / "broken"
    broken.mkdir(parents=True)
    (broken / "model_index.json").write_text(json.dumps({"_class_name": "Nothing"}))
    with pytest.raises(DarkroomError, match="cannot be used"):
        engine_for(broken)


def test_the_decoders_stage_leaves_the_latents_as_they_are(tmp_path):
    vae, pixels = make_vae(VaeShape()), Pictures(4, salt=1).pixels(64)
    latents, decoder = encode(vae, pixels), vae.decoder.conv_in.weight.detach().clone()
    vae_stage(vae, Head(4), pixels, Plan("decoder", 2, 2, 1e-3), DECODER).train(tmp_path, Clock(None))
    assert torch.allclose(encode(vae, pixels), latents, atol=1e-5)
    assert not torch.equal(vae.decoder.conv_in.weight, decoder)
