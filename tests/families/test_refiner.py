"""The refiner of SDXL as the second stage of a run. diffusers' two pipelines, one after the other, are the oracle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionXLImg2ImgPipeline
from transformers import CLIPTextModelWithProjection

from core import Engine, Finished, GenerationRequest, Settings
from core.diffusion import start
from core.diffusion.denoise import denoise
from core.diffusion.prompting import Prompts
from core.errors import CheckpointError, RequestError
from core.families.refiner import StableDiffusionXLRefiner
from core.library.checkpoints import scan
from core.library.part_loading import load_part
from core.memory.planning import WAYS, Work, plans
from core.pictures.dialects import a1111
from core.pictures.dialects.found import Texts, check
from core.pictures.metadata import encode_png, read_text
from tests import ldm, tiny
from tests.diffusion.test_parity import model_of, picture
from tests.library.test_single_file import SECOND, UNETS, VAE
from tests.memory.test_memory import XL, gpu
from ui.desk.desk import OFFERED, Desk

SIZE = 64
FIELDS = {"prompt": "a red circle", "sampler": "Euler", "steps": 10, "seed": 5, "width": SIZE, "height": SIZE}


def refiner() -> StableDiffusionXLImg2ImgPipeline:
    """A tiny one, as the published one is made: one encoder, and five numbers of the picture."""
    base = tiny.sdxl()
    torch.manual_seed(1)
    projecting = tiny.text_config(projection_dim=32, hidden_act="gelu")
    return StableDiffusionXLImg2ImgPipeline(
        unet=tiny.unet(**{**tiny.XL, "cross_attention_dim": 32, "projection_class_embeddings_input_dim": 72}),
        vae=base.vae,
        text_encoder=None,
        text_encoder_2=CLIPTextModelWithProjection(projecting).eval(),
        tokenizer=None,
        tokenizer_2=tiny.tokenizer(),
        scheduler=base.scheduler,
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )


def company(pipeline: StableDiffusionXLImg2ImgPipeline) -> start.Company:
    parts = pipeline.components
    whole = model_of(tiny.sdxl()).parts
    options = {"force_zeros_for_empty_prompt": False}
    encoders, tokenizers = (parts["text_encoder_2"],), (parts["tokenizer_2"],)
    components = replace(
        whole, denoiser=parts["unet"], text_encoders=encoders, tokenizers=tokenizers, options=options, words=({},)
    )
    model = StableDiffusionXLRefiner(components)
    return start.Company((), tiny.FILTERS, start.Refining(model, Prompts(model)))


@pytest.mark.parametrize(("guidance", "negative"), [(1.0, "blue"), (7.0, "blue"), (7.0, "")])
@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_two_stages_have_the_bits_of_diffusers_two_pipelines(guidance, negative, sampler):
    base, second = tiny.sdxl(), refiner()
    model = model_of(base)
    request = GenerationRequest(
        **FIELDS | {"sampler": sampler}, negative_prompt=negative, guidance_scale=guidance, refiner="second"
    )
    *_, ours = denoise(start.prepare(model, Prompts(model), request, company(second)))

    scheduler = start.make_scheduler(request, base.scheduler.config, "cpu")
    said = {"prompt": request.prompt, "negative_prompt": negative or None, "guidance_scale": guidance}
    said |= {"num_inference_steps": 10, "output_type": "latent"}
    for pipeline in (base, second):
        pipeline.scheduler = scheduler.__class__.from_config(scheduler.config)
        pipeline.set_progress_bar_config(disable=True)
    half = base(**said, height=SIZE, width=SIZE, generator=torch.Generator().manual_seed(5), denoising_end=0.8).images
    theirs = second(**said, image=half, denoising_start=0.8).images
    assert torch.equal(ours.latents, theirs)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tiny.sdxl().save_pretrained(folder / "checkpoints" / "base")
    tiny.sd().save_pretrained(folder / "checkpoints" / "old")
    tiny.sdxl(in_channels=9).save_pretrained(folder / "checkpoints" / "inpainting")
    second = refiner()
    second.save_pretrained(folder / "checkpoints" / "second")
    return folder


@pytest.fixture
def engine(models):
    return Engine(Settings(models=models, data=models / "data"))


def draw(engine: Engine, **fields) -> Finished:
    *_, last = engine.generate(GenerationRequest(**{**FIELDS, "checkpoint": "base", **fields}))
    assert isinstance(last, Finished)
    return last


def pixels(finished: Finished):
    return np.asarray(finished.images[0]).astype(int)


def test_it_is_listed_as_a_refiner_and_refused_alone(engine):
    (found,) = engine.library.refiners()
    assert (found.name, found.family) == ("second", "refiner")
    with pytest.raises(CheckpointError, match="cannot draw alone; choose it as refiner"):
        engine.library.resolve(GenerationRequest(checkpoint="second"))
    assert engine.library.resolve(GenerationRequest()).checkpoint == "base"


def test_it_draws_the_last_steps_only(engine):
    alone = pixels(draw(engine))
    assert np.array_equal(pixels(draw(engine, refiner="second", refiner_start=1.0)), alone)
    late, early = (pixels(draw(engine, refiner="second", refiner_start=share)) for share in (0.9, 0.2))
    assert 0 < abs(late - alone).mean() < abs(early - alone).mean()


def test_pictures_to_begin_from_masks_and_second_passes(engine):
    mask = picture(1, "L")
    painted = pixels(draw(engine, image=picture(1), mask=mask, mask_feather=0, refiner="second"))
    outside = np.asarray(mask) == 0
    assert np.array_equal(painted[outside], np.asarray(picture(1))[outside])
    twice = {"hires": {"scale": 1.5, "strength": 0.5}}
    assert not np.array_equal(pixels(draw(engine, refiner="second", **twice)), pixels(draw(engine, **twice)))


@pytest.mark.parametrize("way", WAYS[2:], ids=lambda way: way.words)
def test_every_way_through_memory_draws_the_same_picture(through, engine, way):
    expected = pixels(draw(engine, refiner="second"))
    with through(way):
        assert np.array_equal(pixels(draw(engine, refiner="second")), expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"refiner": "base"}, "Refiner: “base” is not allowed; use one of second"),
        ({"refiner": "second", "checkpoint": "old"}, "use none with old, which is no model of SDXL"),
        ({"refiner": "second", "refiner_start": 1.5}, "Refiner from: 1.5 is not allowed"),
        (
            {"refiner": "second", "checkpoint": "inpainting", "image": picture(1), "mask": picture(1, "L")},
            "use none with inpainting, which is for inpainting alone",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(engine, fields, message):
    with pytest.raises(RequestError, match=message):
        engine.library.resolve(GenerationRequest(**{"checkpoint": "base", **fields}))


def test_a_picture_says_its_refiner_and_the_text_reads_back(engine):
    done = draw(engine, refiner="second", refiner_start=0.6)
    assert done.made_with["refiner_hash"] != done.made_with["model_hash"]
    read = read_text(encode_png(done.images[0], done.request, 0, done.made_with))
    assert f"Refiner: second [{done.made_with['refiner_hash'][:10]}], Refiner switch at: 0.6" in read.text
    assert read.request == done.request


def test_a1111s_own_text_gives_the_refiner():
    text = "a cat\nSteps: 20, Refiner: sd_xl_refiner_1.0.safetensors [7440042bbd], Refiner switch at: 0.7"
    fields, unknown = check(a1111.read(Texts({"parameters": text})).found)
    assert (fields["refiner"], fields["refiner_start"]) == ("sd_xl_refiner_1.0.safetensors", 0.7)
    assert not unknown


def test_both_models_count():
    both = replace(XL, encoders=(*XL.encoders, XL.encoders[1]), refiner=2_250_000_000)
    assert XL.with_refiner(replace(XL, encoders=XL.encoders[1:], denoiser=2_250_000_000, width=384)) == replace(
        both, width=384
    )
    work = Work.of(GenerationRequest(width=1024, height=1024, guidance_scale=7, seed=1, checkpoint="x"))
    alone, together = plans(gpu(24), XL, work), plans(gpu(24), both, work)
    assert together[0].needs - alone[0].needs == 2 * (2_250_000_000 + XL.encoders[1])
    assert together[3].needs == alone[3].needs  # one at a time, and the base is the larger


def test_a_single_file_is_told_and_loaded(tmp_path):
    second = refiner()
    told = {"cross_attention_dim": 128, "projection_class_embeddings_input_dim": 5 * 256 + 128}
    second.unet = tiny.unet(block_out_channels=(64, 128), norm_num_groups=32, **UNETS["sdxl"] | told)
    second.text_encoder_2 = CLIPTextModelWithProjection(tiny.text_config(**SECOND)).eval()
    second.vae = AutoencoderKL(**VAE, scaling_factor=0.13025).eval()
    ldm.save(second, "refiner", tmp_path / "second.safetensors")
    (found,) = scan(tmp_path)
    assert (found.family, found.is_refiner, found.text_encoders) == ("refiner", True, 1)
    assert found.options == {"force_zeros_for_empty_prompt": False}
    for part in found.parts:
        if part.weights:
            ours = load_part(part, "cpu", "float32").state_dict()
            theirs = getattr(second, part.name).state_dict()
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], theirs[key]) for key in ours), part.name


def test_the_page_offers_it_for_models_of_xl_and_takes_it_back_for_others(engine):
    desk = Desk(engine, None, None, [])
    for name, there in (("base", True), ("old", False)):
        shown = dict(zip(OFFERED, desk.offered(name), strict=True))
        assert shown["refiner"].visible == shown["refiner_start"].visible == there
        assert shown["refiner"].choices == [("None", ""), ("second", "second")]
    assert shown["refiner"].value == ""
