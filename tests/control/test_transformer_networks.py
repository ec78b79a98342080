"""ControlNets of Stable Diffusion 3 and FLUX: diffusers' pipelines as oracles, and folders through the engine.

The pipelines draw a map's latents at random from what the VAE allows, and for all predictions at once, which costs
the last bits. In these tests they take the middle, and once, as we do.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput

from core import Control, Engine, Finished, GenerationRequest, Settings
from core.errors import CheckpointError, RequestError
from core.library.networks import scan
from core.library.part_loading import load_part
from core.memory.planning import WAYS
from core.request.preprocessors import FLUX_TYPES
from tests import tiny
from tests.diffusion.test_parity import SIZE, one_or_all, our_latents, picture, their_units

UNITS = (
    Control(net="a", image=picture(5), control_type="lines", weight=0.8, end=0.75),
    Control(net="b", image=picture(6), control_type="depth", weight=1.3, start=0.25),
)


pytestmark = pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")  # diffusers' own use


@pytest.fixture(autouse=True)
def the_middle_once(monkeypatch):
    encode = diffusers.AutoencoderKL.encode

    def once(vae, pixels):
        parameters = encode(vae, pixels[:1]).latent_dist.parameters.repeat(len(pixels), 1, 1, 1)
        return AutoencoderKLOutput(DiagonalGaussianDistribution(parameters))

    monkeypatch.setattr(diffusers.AutoencoderKL, "encode", once)
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())


def requested(count: int, **fields) -> GenerationRequest:
    usual = {"prompt": "a red circle", "sampler": "Euler", "steps": 4, "seed": 3, "width": SIZE, "height": SIZE}
    return GenerationRequest(**{**usual, **fields}, controls=UNITS[:count])


def told(request: GenerationRequest) -> dict:
    return {"control_image": one_or_all([control.image for control in request.controls])} | their_units(request)


def sd3_latents(pipeline, request: GenerationRequest, nets) -> torch.Tensor:
    several = diffusers.SD3MultiControlNetModel(nets) if len(nets) > 1 else nets[0]
    runner = diffusers.StableDiffusion3ControlNetPipeline(**pipeline.components, controlnet=several)
    runner.set_progress_bar_config(disable=True)
    return runner(
        prompt=request.prompt,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator().manual_seed(request.seed),
        output_type="latent",
        height=SIZE,
        width=SIZE,
        **told(request),
    ).images


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layers": 2, "force_zeros_for_pooled_projection": False},
        {"use_pos_embed": False, "joint_attention_dim": None, "force_zeros_for_pooled_projection": False},
    ],
    ids=["InstantX", "with the gist", "3.5 large"],
)
@pytest.mark.parametrize("guidance", [1.0, 7.0])
def test_sd3_has_diffusers_bits(changes, guidance):
    pipeline = tiny.sd3()
    request = requested(1, guidance_scale=guidance)
    ours = our_latents(pipeline, request, [tiny.sd3_controlnet(pipeline.transformer, **changes)])
    assert torch.equal(ours, sd3_latents(pipeline, request, [tiny.sd3_controlnet(pipeline.transformer, **changes)]))
    assert not torch.equal(ours, our_latents(pipeline, request.replace(controls=[])))


def test_two_networks_of_sd3_at_once():
    pipeline = tiny.sd3()
    nets = [tiny.sd3_controlnet(pipeline.transformer, layers=2, sample_size=size) for size in (32, 32)]
    request = requested(2, guidance_scale=7.0)
    assert torch.equal(our_latents(pipeline, request, nets), sd3_latents(pipeline, request, nets))


def flux_latents(pipeline, request: GenerationRequest, nets) -> torch.Tensor:
    """The first latents are given: diffusers takes the map's from the same generator before them."""
    several = diffusers.FluxMultiControlNetModel(nets) if len(nets) > 1 else nets[0]
    runner = diffusers.FluxControlNetPipeline(**pipeline.components, controlnet=several)
    runner.set_progress_bar_config(disable=True)
    first = torch.randn(1, 16, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(request.seed))
    modes = [FLUX_TYPES[control.shows] for control in request.controls]
    patches = runner(
        prompt=request.prompt,
        num_inference_steps=request.steps,
        guidance_scale=request.distilled_guidance,
        control_mode=(modes if len(nets) > 1 else modes[0]) if nets[0].union else None,
        latents=runner._pack_latents(first, *first.shape),
        output_type="latent",
        height=SIZE,
        width=SIZE,
        **told(request),
    ).images
    rows = patches.view(1, SIZE // 16, SIZE // 16, 16, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return rows.reshape(first.shape)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layers": (2, 0), "guidance_embeds": False},
        {"layers": (1, 2), "num_mode": 7},
        {"layers": (2, 0), "conditioning_embedding_channels": 16, "patch_size": 2},
    ],
    ids=["InstantX", "no single blocks", "Union", "XLabs"],
)
def test_flux_has_diffusers_bits(changes):
    pipeline = tiny.flux(blocks=(3, 5))
    request = requested(1, guidance_scale=1.0, distilled_guidance=2.0)
    nets = [tiny.flux_controlnet(pipeline.transformer, **changes)]
    ours = our_latents(pipeline, request, nets)
    assert torch.equal(ours, flux_latents(pipeline, request, nets))
    assert not torch.equal(ours, our_latents(pipeline, request.replace(controls=[])))
    if "num_mode" in changes:
        other = [control.replace(control_type="tile") for control in request.controls]
        assert not torch.equal(ours, our_latents(pipeline, request.replace(controls=other), nets))


def test_networks_of_flux_that_are_not_alike_add_up():
    """diffusers would drop what the deeper one has more; each alone has its bits."""
    pipeline = tiny.flux(blocks=(3, 5))
    nets = [tiny.flux_controlnet(pipeline.transformer, layers) for layers in ((1, 2), (3, 0))]
    request = requested(2, guidance_scale=1.0)
    both = our_latents(pipeline, request, nets)
    halves = [our_latents(pipeline, request.replace(controls=[u]), [n]) for u, n in zip(UNITS, nets, strict=True)]
    assert not any(torch.equal(both, half) for half in halves)
    alike = [tiny.flux_controlnet(pipeline.transformer, (1, 2)) for _ in range(2)]
    assert torch.equal(our_latents(pipeline, request, alike), flux_latents(pipeline, request, alike))


# Folders, through the engine


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transformers")
    flux, third = tiny.flux(), tiny.sd3()
    flux.save_pretrained(folder / "checkpoints" / "flux")
    tiny.flux(guided=False).save_pretrained(folder / "checkpoints" / "schnell")
    third.save_pretrained(folder / "checkpoints" / "third")
    nets = folder / "controlnet"
    tiny.flux_controlnet(flux.transformer, num_mode=7).save_pretrained(nets / "flux-union")
    tiny.sd3_controlnet(third.transformer).save_pretrained(nets / "sd3-canny", max_shard_size="40KB")
    return folder


def draw(models, checkpoint: str, *controls: Control, **fields) -> np.ndarray:
    engine = Engine(Settings(models=models, data=models / "data", previews=False))
    request = GenerationRequest(
        **{"prompt": "a red circle", "steps": 2, "seed": 5, "width": 64, "height": 64, **fields}
    )
    *_, last = engine.generate(request.replace(checkpoint=checkpoint, controls=controls))
    assert isinstance(last, Finished)
    return np.asarray(last.images[0]).astype(int)


def test_they_are_told_from_their_folders(models):
    union, third = scan(models / "controlnet")
    assert (union.problem, union.family, union.control_types) == (None, "flux", tuple(FLUX_TYPES))
    assert (third.problem, third.family, third.control_types) == (None, "sd3", ())
    assert third.begins and third.begins.preprocessor == "canny"
    assert third.part and third.part.parameters > 10_000 and len(third.part.files) > 1


@pytest.mark.parametrize(("checkpoint", "net"), [("flux", "flux-union"), ("third", "sd3-canny")])
def test_the_picture_goes_another_way_with_one_in_sizes_between_patches_too(models, checkpoint, net):
    unit = Control(net=net, image=picture(5), preprocessor="canny")
    size = {"width": 72, "height": 88}
    free = draw(models, checkpoint, **size)
    steered = [
        draw(models, checkpoint, unit.replace(mode=mode), **size, guidance_scale=3.0)
        for mode in ("balanced", "prompt", "control")
    ]
    assert free.shape == steered[0].shape == (88, 72, 3)
    assert len({picture.tobytes() for picture in (free, *steered)}) == 4
    assert np.array_equal(draw(models, checkpoint, unit.replace(weight=0.0), **size), free)


@pytest.mark.parametrize("way", WAYS[3:], ids=lambda way: way.words)
def test_every_way_through_memory_draws_the_same_picture(through, models, way):
    unit = Control(net="flux-union", image=picture(5), preprocessor="canny")
    expected = draw(models, "flux", unit)
    with through(way):
        assert np.array_equal(draw(models, "flux", unit), expected)


def test_one_for_another_model_is_refused_by_name(models):
    engine = Engine(Settings(models=models, data=models / "data"))
    for checkpoint, net, words in (
        ("third", "flux-union", "this one is for FLUX.1"),
        ("flux", "sd3-canny", "this one is for Stable Diffusion 3"),
        ("schnell", "flux-union", "this one is for FLUX.1"),  # it wants to be told the guidance
    ):
        unit = Control(net=net, image=picture(5), preprocessor="canny")
        with pytest.raises(RequestError, match=words):
            engine.library.resolve(GenerationRequest(checkpoint=checkpoint, controls=[unit]))


def test_a_union_of_flux_is_asked_only_for_what_it_knows(models):
    engine = Engine(Settings(models=models, data=models / "data"))
    unit = Control(net="flux-union", image=picture(5), control_type="areas")
    with pytest.raises(RequestError, match="use one of lines, tile, depth, pose with flux-union"):
        engine.library.resolve(GenerationRequest(checkpoint="flux", controls=[unit]))


# Files: the weights of a folder, without its config

SD3_HEADS = {"attention_head_dim": 64, "num_attention_heads": 1, "caption_projection_dim": 64}
FLUX_HEADS = {"attention_head_dim": 128, "num_attention_heads": 1, "axes_dims_rope": (16, 56, 56)}


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": 2, "qk_norm": "rms_norm", "dual_attention_layers": (1,)},
        {"use_pos_embed": False, "joint_attention_dim": None, "force_zeros_for_pooled_projection": False},
    ],
    ids=["InstantX", "3.5 large"],
)
def test_a_file_of_sd3_is_the_network_that_its_folder_is(tmp_path, changes):
    transformer = tiny.sd3(**SD3_HEADS).transformer
    _same_as_its_folder(tiny.sd3_controlnet(transformer, **changes), tmp_path, {"sample_size", "pos_embed_max_size"})


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": (2, 0), "guidance_embeds": True},
        {"layers": (1, 2), "num_mode": 7},
        {"layers": (2, 0), "conditioning_embedding_channels": 16},
    ],
    ids=["no single blocks", "Union", "XLabs"],
)
def test_a_file_of_flux_is_the_network_that_its_folder_is(tmp_path, changes):
    transformer = diffusers.FluxTransformer2DModel(num_layers=1, num_single_layers=1, **FLUX_HEADS)
    _same_as_its_folder(tiny.flux_controlnet(transformer, **changes), tmp_path, {"patch_size"})


def _same_as_its_folder(net, folder, untold: set[str]) -> None:
    """But for what is `untold`, since nothing that we run asks for it."""
    net.save_pretrained(folder / "folder")
    shutil.copy(folder / "folder" / "diffusion_pytorch_model.safetensors", folder / "own.safetensors")
    of_folder, of_file = scan(folder)
    assert of_file.part and of_file.part.source and of_folder.part
    assert replace(of_file, name="", title="", part=None, config={}, begins=None) == replace(
        of_folder, name="", title="", part=None, config={}, begins=None
    )
    loaded = load_part(of_file.part, "cpu", "float32")
    names = set(net.config) - {name for name in net.config if name.startswith("_")} - untold
    assert {name: _plain(loaded.config[name]) for name in names} == {name: _plain(net.config[name]) for name in names}
    assert all(torch.equal(tensor, loaded.state_dict()[key]) for key, tensor in net.state_dict().items())


def _plain(value):
    return tuple(value) if isinstance(value, list) else value


def test_a_network_that_wants_a_mask_is_refused(tmp_path):
    net = tiny.sd3_controlnet(tiny.sd3().transformer, extra_conditioning_channels=1)
    net.save_pretrained(tmp_path / "inpainting")
    (found,) = scan(tmp_path)
    assert found.problem == "it wants to see a mask too, a kind that Darkroom does not know"


def test_a_config_that_does_not_fit_its_weights_is_one_clear_error(models, tmp_path):
    shutil.copytree(models, tmp_path / "models")
    config = tmp_path / "models" / "controlnet" / "sd3-canny" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_layers": 9}))
    with pytest.raises(CheckpointError, match="ControlNet: sd3-canny is damaged or does not fit its config"):
        draw(tmp_path / "models", "third", Control(net="sd3-canny", image=picture(5)))
