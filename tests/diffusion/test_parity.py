"""diffusers is the oracle: our one loop gives the very bits of its pipelines, on tiny random weights.

Every case compares the final latents of two seeds, one without guidance and one with guidance 7.
"""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from core import families
from core.diffusion import start
from core.diffusion.denoise import denoise
from core.diffusion.prompting import Prompts
from core.families.contract import Components
from core.families.flux import Flux
from core.families.sd import StableDiffusion
from core.families.sd3 import StableDiffusion3
from core.families.sdxl import StableDiffusionXL
from core.request.generation import GenerationRequest
from core.request.preprocessors import CONTROL_TYPES
from core.request.units import Control
from core.samplers import FLOW, SAMPLERS
from tests import tiny

LEVELS = {"Flux": families.FAMILIES["flux"].levels}
RUNS = ((3, 1.0), (2**63, 7.0))  # seed, guidance
SIZE = 64
FAMILIES = ("StableDiffusion", "StableDiffusionXL")
MODELS = {
    "StableDiffusion": StableDiffusion,
    "StableDiffusionXL": StableDiffusionXL,
    "StableDiffusion3": StableDiffusion3,
    "Flux": Flux,
}


def picture(seed: int, mode: str = "RGB") -> Image.Image:
    """Something to begin from: soft random colours, or a mask with a hard edge."""
    random = np.random.default_rng(seed)
    if mode == "L":
        mask = np.zeros((SIZE, SIZE), np.uint8)
        mask[16:40, 8:48] = 255
        return Image.fromarray(mask)
    return Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).resize(
        (SIZE, SIZE), Image.Resampling.BICUBIC
    )


@pytest.fixture(scope="module")
def pipelines():
    return {"StableDiffusion": tiny.sd(), "StableDiffusionXL": tiny.sdxl(), "StableDiffusion3": tiny.sd3()}


def model_of(pipeline, **changes) -> StableDiffusion:
    """Our model of a diffusers pipeline's components."""
    parts = pipeline.components
    family = type(pipeline).__name__.removesuffix("Pipeline")
    names = [name for name in ("", "_2", "_3") if parts.get(f"text_encoder{name}")]
    components = Components(
        denoiser=parts.get("unet") or parts["transformer"],
        vae=parts["vae"],
        text_encoders=tuple(parts[f"text_encoder{n}"] for n in names),
        tokenizers=tuple(parts[f"tokenizer{n}"] for n in names),
        scheduler_config=dict(parts["scheduler"].config) | LEVELS.get(family, {}),
        options={},
        **changes,
    )
    return MODELS[family](components)


def our_latents(pipeline, request: GenerationRequest, nets=()) -> torch.Tensor:
    model = model_of(pipeline)
    *_, last = denoise(start.prepare(model, Prompts(model), request, start.Company(nets, tiny.FILTERS)))
    return last.latents


def their_latents(pipeline, request: GenerationRequest, nets=()) -> torch.Tensor:
    """The same request, as somebody would write it with diffusers."""
    scheduler = their_flow_scheduler if "transformer" in pipeline.components else their_scheduler
    parts = {**pipeline.components, "scheduler": scheduler(pipeline, request)}
    name = type(pipeline).__name__.removesuffix("Pipeline")
    suffix = {"text": "", "image": "Img2Img", "inpaint": "Inpaint"}[request.task]
    options = {"height": SIZE, "width": SIZE}
    if request.image:
        options |= {"image": request.image, "strength": request.strength}
    if request.prompt_2:
        options |= {"prompt_2": request.prompt_2, "negative_prompt_2": request.negative_prompt_2}
    if request.mask:
        options |= {"mask_image": request.mask}
    if nets:
        parts["controlnet"] = list(nets) if len(nets) > 1 else nets[0]
        name += "ControlNet"
        options["control_image" if request.image else "image"] = one_or_all([c.image for c in request.controls])
        options |= their_units(request)
    if name.startswith("StableDiffusionXL") and (request.task == "text" or nets):
        parts["add_watermarker"] = False
    if name in ("StableDiffusion", "StableDiffusionControlNet"):
        parts["requires_safety_checker"] = False
    runner = getattr(diffusers, f"{name}{suffix}Pipeline")(**parts)
    runner.set_progress_bar_config(disable=True)
    return runner(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt or None,
        **their_steps(request),
        guidance_scale=request.guidance_scale,
        generator=torch.Generator().manual_seed(request.seed),
        output_type="latent",
        **options,
    ).images


def their_scheduler(pipeline, request: GenerationRequest):
    sampler = SAMPLERS[request.sampler]
    options = dict(sampler.config)
    if sampler.scheduler == "DPMSolverSDEScheduler":
        options["noise_sampler_seed"] = request.seed
    return getattr(diffusers, sampler.scheduler).from_config(pipeline.scheduler.config, **options)


def their_flow_scheduler(pipeline, request: GenerationRequest):
    """As diffusers' documentation has it for Stable Diffusion 3, whose own scheduler says how far to shift.

    Its pipelines from pictures ask for `scale_noise`, which the schedulers of noise have under another name.
    """
    shift = pipeline.scheduler.config.shift
    flow = {"use_flow_sigmas": True, "flow_shift": shift, "prediction_type": "flow_prediction"}
    if request.sampler in ("Euler", "Heun"):
        return getattr(diffusers, f"FlowMatch{request.sampler}DiscreteScheduler")(shift=shift)
    names = {"DPM++ 2M": "DPMSolverMultistepScheduler", "UniPC": "UniPCMultistepScheduler"}
    scheduler = getattr(diffusers, names[request.sampler])(**flow)
    scheduler.scale_noise = lambda sample, timestep, noise: scheduler.add_noise(sample, noise, timestep)
    return scheduler


def their_steps(request: GenerationRequest) -> dict:
    if not SAMPLERS[request.sampler].beta_timesteps:
        return {"num_inference_steps": request.steps}
    return {"timesteps": start.beta_timesteps(request.steps, 1000)}


def their_units(request: GenerationRequest) -> dict:
    """What units say beside their maps, as ControlNet pipelines take it."""
    return {
        "controlnet_conditioning_scale": one_or_all([control.weight for control in request.controls]),
        "control_guidance_start": [control.start for control in request.controls],
        "control_guidance_end": [control.end for control in request.controls],
    }


def one_or_all(values: list):
    return values if len(values) > 1 else values[0]


def assert_same_bits(pipeline, nets=(), **fields) -> None:
    for seed, guidance in RUNS:
        request = GenerationRequest(
            **{"sampler": "Euler", "steps": 4, "prompt": "a red circle", "negative_prompt": "blue", **fields},
            width=SIZE,
            height=SIZE,
            seed=seed,
            guidance_scale=guidance,
        )
        ours, theirs = our_latents(pipeline, request, nets), their_latents(pipeline, request, nets)
        assert torch.isfinite(theirs).all()
        assert torch.equal(ours, theirs), f"guidance {guidance}: differs by up to {(ours - theirs).abs().max():.2e}"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", ["text", "image", "inpaint"])
@pytest.mark.parametrize("networks", [0, 1, 2])
def test_every_task_with_and_without_controlnets(pipelines, family, task, networks):
    pipeline = pipelines[family]
    nets = [tiny.controlnet(pipeline.unet)] * networks
    units = [
        Control(net="a", image=picture(5), weight=0.8, end=0.75),
        Control(net="b", image=picture(6), weight=1.3, start=0.25),
    ]
    fields = {"controls": units[:networks]}
    if task != "text":
        fields |= {"image": picture(1), "strength": 0.75}
    if task == "inpaint":
        fields |= {"mask": picture(1, "L")}
    assert_same_bits(pipeline, nets, **fields)


def their_union_latents(pipeline, request: GenerationRequest, nets) -> torch.Tensor:
    maps, kinds = [[c.image] for c in request.controls], [CONTROL_TYPES.index(c.shows) for c in request.controls]
    several = len(nets) > 1
    parts = {**pipeline.components, "scheduler": their_scheduler(pipeline, request), "add_watermarker": False}
    runner = diffusers.StableDiffusionXLControlNetUnionPipeline(**parts, controlnet=nets if several else nets[0])
    runner.set_progress_bar_config(disable=True)
    return runner(
        prompt=request.prompt,
        control_image=maps if several else maps[0],
        control_mode=kinds,
        **their_units(request),
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator().manual_seed(request.seed),
        output_type="latent",
        height=SIZE,
        width=SIZE,
    ).images


@pytest.mark.parametrize("networks", [1, 2])
def test_controlnet_union_is_told_what_its_maps_show(pipelines, networks):
    pipeline = pipelines["StableDiffusionXL"]
    nets = [tiny.union(pipeline.unet, seed) for seed in range(networks)]
    units = [
        Control(net="a", image=picture(5), control_type="lines", weight=0.8, end=0.75),
        Control(net="b", image=picture(6), control_type="depth", weight=1.3, start=0.25),
    ]
    for seed, guidance in RUNS:
        request = GenerationRequest(
            prompt="a red circle", sampler="Euler", steps=4, seed=seed, width=SIZE, height=SIZE
        )
        request = request.replace(guidance_scale=guidance, controls=units[:networks])
        assert torch.equal(our_latents(pipeline, request, nets), their_union_latents(pipeline, request, nets))
        other = request.replace(controls=[unit.replace(control_type="areas") for unit in request.controls])
        assert not torch.equal(our_latents(pipeline, request, nets), our_latents(pipeline, other, nets))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_from_text(pipelines, sampler):
    assert_same_bits(pipelines["StableDiffusion"], sampler=sampler)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_from_an_image(pipelines, sampler):
    assert_same_bits(pipelines["StableDiffusion"], sampler=sampler, image=picture(1), strength=0.75)


@pytest.mark.parametrize("strength", [0.3, 1.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_inpaint_at_other_strengths(pipelines, family, strength):
    assert_same_bits(pipelines[family], image=picture(1), mask=picture(1, "L"), strength=strength)


@pytest.mark.parametrize("sampler", ["Euler", "DDIM", "DPM++ 2M Karras"])
def test_v_prediction(sampler):
    assert_same_bits(tiny.sd("v_prediction"), sampler=sampler)


def test_a_9_channel_unet_sees_the_mask():
    assert_same_bits(tiny.sd(in_channels=9), image=picture(1), mask=picture(1, "L"), strength=1.0)


def test_an_empty_negative_prompt(pipelines):
    for pipeline in pipelines.values():
        assert_same_bits(pipeline, negative_prompt="")


def test_second_prompts_of_xl(pipelines):
    xl = pipelines["StableDiffusionXL"]
    assert_same_bits(xl, prompt_2="a green tree", negative_prompt_2="a small circle")


@pytest.mark.parametrize("sampler", FLOW)
@pytest.mark.parametrize("task", ["text", "image", "inpaint"])
def test_stable_diffusion_3(pipelines, task, sampler):
    fields = {} if task == "text" else {"image": picture(1), "strength": 0.75}
    fields |= {"mask": picture(1, "L")} if task == "inpaint" else {}
    assert_same_bits(pipelines["StableDiffusion3"], sampler=sampler, **fields)


def test_stable_diffusion_3_in_its_other_forms():
    assert_same_bits(tiny.sd3(t5=False))
    assert_same_bits(tiny.sd3(qk_norm="rms_norm", dual_attention_layers=(0,)))


def their_flux_latents(pipeline, request: GenerationRequest, prompt_2: str | None = None) -> torch.Tensor:
    """Of FLUX's pipelines, whose latents are patches, in rows."""
    suffix = {"text": "", "image": "Img2Img", "inpaint": "Inpaint"}[request.task]
    options = {"image": request.image, "strength": request.strength} if request.image else {}
    options |= {"mask_image": request.mask} if request.mask else {}
    runner = getattr(diffusers, f"Flux{suffix}Pipeline")(**pipeline.components)
    runner.set_progress_bar_config(disable=True)
    patches = runner(
        prompt=request.prompt,
        prompt_2=prompt_2,
        num_inference_steps=request.steps,
        guidance_scale=request.distilled_guidance,
        generator=torch.Generator().manual_seed(request.seed),
        output_type="latent",
        height=SIZE,
        width=SIZE,
        **options,
    ).images
    rows = patches.view(1, SIZE // 16, SIZE // 16, 16, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return rows.reshape(1, 16, SIZE // 8, SIZE // 8)


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("task", ["text", "image", "inpaint"])
def test_flux(task, guided):
    pipeline = tiny.flux(guided)
    fields = {} if task == "text" else {"image": picture(1), "strength": 0.75}
    fields |= {"mask": picture(1, "L")} if task == "inpaint" else {}
    for seed, distilled, second in ((3, 3.5, None), (2**63, 2.0, "blue")):
        request = GenerationRequest(
            **{"prompt": "a red circle", "prompt_2": second, "sampler": "Euler", "steps": 4, **fields},
            **{"seed": seed, "width": SIZE, "height": SIZE, "guidance_scale": 1.0, "distilled_guidance": distilled},
        )
        assert torch.equal(our_latents(pipeline, request), their_flux_latents(pipeline, request, second))


def test_fluxs_other_samplers_shift_their_noise_as_diffusers_does():
    """Where diffusers has the schedulers, but no pipeline of FLUX's that takes them as they are."""
    levels = dict(tiny.flux().scheduler.config) | LEVELS["Flux"]
    for name, scheduler_class in (("DPM++ 2M", "DPMSolverMultistepScheduler"), ("UniPC", "UniPCMultistepScheduler")):
        request = GenerationRequest(sampler=name, steps=4, width=1024, height=1024, seed=1)
        options = {"use_flow_sigmas": True, "use_dynamic_shifting": True, "prediction_type": "flow_prediction"}
        theirs = getattr(diffusers, scheduler_class)(**options, time_shift_type="exponential")
        theirs.set_timesteps(4, mu=1.15)  # of 4096 patches
        assert torch.equal(start.make_scheduler(request, levels, "cpu").sigmas, theirs.sigmas)
