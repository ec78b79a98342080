"""Merged LoRAs: peft and diffusers as oracles, the formulas of LyCORIS in NumPy, and the base's very bits after."""

from __future__ import annotations

import functools
import random

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer

from core.errors import LoraError
from core.library.lora_weights import read_lora
from core.library.loras import LoraShelf
from core.lora import names as lora_names
from core.lora.delta import Factors
from core.lora.merging import Merger
from core.request.units import Lora
from tests import ldm, loras, tiny

CONVS = ("conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv")
LINEAR = "down_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj"  # 512 × 64
CONV = "down_blocks.1.resnets.0.conv1"  # 64 × 32 × 3 × 3


def networks(pipeline) -> dict:
    found = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}
    second = getattr(pipeline, "text_encoder_2", None)
    return {**found, "text_encoder_2": second} if second else found


def bits(parts) -> dict[str, torch.Tensor]:
    return {
        f"{name} {path}": tensor.clone() for name, part in parts.items() for path, tensor in part.state_dict().items()
    }


def same(one, other) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def read(folder, name="it"):
    return read_lora(LoraShelf(folder).find(name))


def merge(pipeline, *wanted) -> dict[str, torch.Tensor]:
    """The pipeline's weights while these LoRAs, (Lora, LoraFile), are in."""
    with Merger().merged(networks(pipeline), wanted):
        return bits(networks(pipeline))


def weight_after(tmp_path, path: str, state: dict, **lora) -> tuple[np.ndarray, np.ndarray]:
    """One of the tiny U-Net's weights before and after a LoRA with the kohya name of its layer before each key."""
    pipeline = tiny.sd()
    before = pipeline.unet.get_submodule(path).weight.detach().clone().numpy()
    name = loras.kohya("lora_unet", path)
    loras.write(tmp_path / "it.safetensors", {f"{name}.{key}": torch.as_tensor(t) for key, t in state.items()})
    after = merge(pipeline, (Lora(name="it", **lora), read(tmp_path)))[f"unet {path}.weight"]
    assert LoraShelf(tmp_path).find("it").changes == before.size
    return before, after.numpy()


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(0, 0.3, shape).astype(np.float32)


def close(one, other) -> None:
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


# diffusers and peft as oracles


def fused(pipeline, *adapters: tuple[str, float]) -> dict[str, torch.Tensor]:
    """The pipeline's weights as peft merges them."""
    pipeline.set_adapters([name for name, _ in adapters], [weight for _, weight in adapters])
    pipeline.fuse_lora(adapter_names=[name for name, _ in adapters])
    pipeline.unload_lora_weights()
    return bits(networks(pipeline))


def assert_equal(ours, theirs) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("family", ["sd", "sdxl"])
@pytest.mark.parametrize("ends", [loras.ATTENTION, loras.ATTENTION + CONVS], ids=["LoRA", "LoCon"])
def test_kohya_files_are_merged_as_diffusers_merges_them(tmp_path, family, ends):
    make = getattr(tiny, family)
    loras.write(tmp_path / "it.safetensors", loras.lora(loras.of(make(), ends)))
    ours = merge(make(), (Lora(name="it", weight=0.7), read(tmp_path)))
    oracle = make()
    oracle.load_lora_weights(tmp_path / "it.safetensors", adapter_name="oracle")
    assert_equal(ours, fused(oracle, ("oracle", 0.7)))


def original_names(pipeline) -> dict[str, str]:
    """Some of the tiny XL U-Net's layers under the names of the original code, written down by hand."""
    down, up = "down_blocks.1.attentions.0.transformer_blocks.1", "up_blocks.0.attentions.1.transformer_blocks.0"
    return {
        "input_blocks_3_1_transformer_blocks_1_attn2_to_k": f"{down}.attn2.to_k",
        "input_blocks_3_1_transformer_blocks_1_attn1_to_out_0": f"{down}.attn1.to_out.0",
        "input_blocks_3_0_in_layers_2": "down_blocks.1.resnets.0.conv1",
        "input_blocks_3_0_skip_connection": "down_blocks.1.resnets.0.conv_shortcut",
        "input_blocks_2_0_op": "down_blocks.0.downsamplers.0.conv",
        "middle_block_0_out_layers_3": "mid_block.resnets.0.conv2",
        "middle_block_1_proj_in": "mid_block.attentions.0.proj_in",
        "middle_block_2_emb_layers_1": "mid_block.resnets.1.time_emb_proj",
        "output_blocks_1_1_transformer_blocks_0_ff_net_0_proj": f"{up}.ff.net.0.proj",
        "output_blocks_1_2_conv": "up_blocks.0.upsamplers.0.conv",
        "output_blocks_3_0_in_layers_2": "up_blocks.1.resnets.1.conv1",
        "time_embed_0": "time_embedding.linear_1",
        "label_emb_0_2": "add_embedding.linear_2",
        "input_blocks_0_0": "conv_in",
        "out_2": "conv_out",
    }


def test_the_original_codes_names_reach_the_same_layers(tmp_path):
    pipeline = tiny.sdxl()
    names = original_names(pipeline)
    ours = {path: tuple(pipeline.unet.get_submodule(path).weight.shape) for path in names.values()}
    loras.write(tmp_path / "diffusers.safetensors", loras.lora({"lora_unet": ours}))
    theirs = {theirs: ours[path] for theirs, path in names.items()}
    loras.write(tmp_path / "original.safetensors", loras.lora({"lora_unet": theirs}))
    merged = [merge(tiny.sdxl(), (Lora(name=n), read(tmp_path, n))) for n in ("diffusers", "original")]
    assert same(*merged) and not same(merged[0], bits(networks(pipeline)))


def adapters(pipeline, **options) -> None:
    """Random peft adapters on U-Net and text encoder."""
    torch.manual_seed(3)
    for network, targets in ((pipeline.unet, loras.ATTENTION), (pipeline.text_encoder, loras.CLIP)):
        network.add_adapter(
            LoraConfig(r=4, target_modules=list(targets), init_lora_weights=False, **options), adapter_name="oracle"
        )


@pytest.mark.parametrize(
    "options",
    [
        {"lora_alpha": 4},
        {"lora_alpha": 10, "alpha_pattern": {"to_k": 3}},
        {"lora_alpha": 8, "use_rslora": True},
        {"lora_alpha": 6, "use_dora": True},
    ],
    ids=["plain", "alpha", "rank-stabilised", "DoRA"],
)
@pytest.mark.filterwarnings("ignore:The following alpha_pattern keys:RuntimeWarning")  # the text encoder has no to_k
def test_files_that_diffusers_saves_are_merged_as_peft_merges_them(tmp_path, options):
    from peft import get_peft_model_state_dict

    oracle = tiny.sd()
    adapters(oracle, **options)
    parts = {"unet": oracle.unet, "text_encoder": oracle.text_encoder}
    states = {f"{name}_lora_layers": get_peft_model_state_dict(p, adapter_name="oracle") for name, p in parts.items()}
    configs = {f"{name}_lora_adapter_metadata": p.peft_config["oracle"].to_dict() for name, p in parts.items()}
    oracle.save_lora_weights(tmp_path, weight_name="it.safetensors", **states, **configs)
    for network in parts.values():
        for module in network.modules():
            if isinstance(module, BaseTunerLayer):
                module.merge()
    ours = merge(tiny.sd(), (Lora(name="it"), read(tmp_path)))
    theirs = {
        name.replace(".base_layer.", "."): tensor for name, tensor in bits(parts).items() if "lora_" not in name
    }
    assert_equal(ours, theirs)
    assert not same(ours, bits(networks(tiny.sd())))


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
def test_two_at_once_with_weights_of_their_own_for_the_text_encoder(tmp_path):
    files = []
    for seed, name in enumerate(("first", "second")):
        loras.write(tmp_path / f"{name}.safetensors", loras.lora(loras.of(tiny.sd()), seed))
        files.append(read(tmp_path, name))
    ours = merge(
        tiny.sd(),
        (Lora(name="first", weight=0.5, text_encoder_weight=1.5), files[0]),
        (Lora(name="second", weight=-1.0, text_encoder_weight=0.0), files[1]),
    )
    oracle = tiny.sd()
    for name in ("first", "second"):
        oracle.load_lora_weights(tmp_path / f"{name}.safetensors", adapter_name=name)
    oracle.set_adapters(
        ["first", "second"], [{"unet": 0.5, "text_encoder": 1.5}, {"unet": -1.0, "text_encoder": 0.0}]
    )
    oracle.fuse_lora(adapter_names=["first", "second"])
    oracle.unload_lora_weights()
    assert_equal(ours, bits(networks(oracle)))


def test_kohya_and_diffusers_files_of_one_lora_give_the_same_bits(tmp_path):
    shapes = loras.of(tiny.sd())
    state = loras.lora(shapes, alpha=None)
    loras.write(tmp_path / "kohya.safetensors", state)
    prefixes = {"lora_unet": "unet.", "lora_te": "text_encoder.text_model."}
    paths = {loras.kohya(p, path): prefixes[p] + path for p, layers in shapes.items() for path in layers}
    ends = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}
    renamed = {f"{paths[key.split('.')[0]]}.{ends[key.split('.', 1)[1]]}": tensor for key, tensor in state.items()}
    loras.write(tmp_path / "diffusers.safetensors", renamed)
    one, other = (merge(tiny.sd(), (Lora(name=n), read(tmp_path, n))) for n in ("kohya", "diffusers"))
    assert same(one, other)


# transformers: SD 3 and FLUX


JOINT = ("attn.to_q", "attn.add_k_proj", "attn.to_out.0", "attn.to_add_out", "ff.net.0.proj", "ff_context.net.2")
SINGLE = ("proj_mlp", "proj_out", "norm.linear", "x_embedder")


def transformer_parts(pipeline) -> dict:
    return {"unet": pipeline.transformer, "text_encoder": pipeline.text_encoder}


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_transformers_lora_is_merged_as_diffusers_merges_it(tmp_path, family):
    ours, oracle = getattr(tiny, family)(), getattr(tiny, family)()
    state = loras.lora({"transformer": loras.weights(ours.transformer, JOINT + SINGLE)}, alpha=None)
    paths = {loras.kohya("transformer", path): path for path, _ in ours.transformer.named_modules()}
    ends = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}
    named = [(paths[key.split(".")[0]], ends[key.split(".", 1)[1]], tensor) for key, tensor in state.items()]
    loras.write(tmp_path / "it.safetensors", {f"transformer.{path}.{end}": tensor for path, end, tensor in named})
    with Merger().merged(transformer_parts(ours), [(Lora(name="it", weight=0.6), read(tmp_path))]) as merged:
        mine = bits({"transformer": ours.transformer})
    assert not merged.reports[0].unmatched
    oracle.load_lora_weights(tmp_path / "it.safetensors", adapter_name="oracle")
    oracle.set_adapters(["oracle"], [0.6])
    oracle.fuse_lora()
    oracle.unload_lora_weights()
    assert_equal(mine, bits({"transformer": oracle.transformer}))
    assert not same(mine, bits({"transformer": getattr(tiny, family)().transformer}))


def test_kohyas_names_for_sd3_change_what_they_change_in_the_original_file(tmp_path):
    """Merged into the original layout and converted: the very weights of one merged after the conversion."""
    pipeline = tiny.sd3(qk_norm="rms_norm", dual_attention_layers=(0,))
    before = {key: tensor.clone() for key, tensor in ldm.transformer(pipeline.transformer).items()}
    ends = ("qkv.weight", "proj.weight", "mlp.fc1.weight", "mlp.fc2.weight", "adaLN_modulation.1.weight")
    shapes = {key.removesuffix(".weight"): tuple(t.shape) for key, t in before.items() if key.endswith(ends)}
    shapes = {key: shape for key, shape in shapes.items() if len(shape) == 2 and "final_layer" not in key}
    del shapes[max(key for key in shapes if "context_block.adaLN" in key)]  # the last, whose halves diffusers swaps
    assert any("context_block.adaLN" in key for key in shapes)
    state = loras.lora({"lora_unet": shapes}, alpha=2.0)
    loras.write(tmp_path / "it.safetensors", state)
    with Merger().merged({"unet": pipeline.transformer}, [(Lora(name="it"), read(tmp_path))]) as merged:
        after = {key: tensor.clone() for key, tensor in ldm.transformer(pipeline.transformer).items()}
    assert not merged.reports[0].unmatched
    assert any("context_block.attn.qkv" in key for key in shapes) and any("attn2.qkv" in key for key in shapes)
    for key, tensor in after.items():
        expected = before[key]
        if (layer := key.removesuffix(".weight")) in shapes:
            name = loras.kohya("lora_unet", layer)
            expected = expected + state[f"{name}.lora_up.weight"] @ state[f"{name}.lora_down.weight"] * (2 / 4)
        torch.testing.assert_close(tensor, expected, rtol=1e-4, atol=1e-5, msg=key)


def test_kohyas_names_for_flux_mean_what_they_mean_to_diffusers():
    """At FLUX's own width, which diffusers' conversion takes for granted; the model has no weights."""
    width, mlp = 3072, 12288
    heights = {
        "double_blocks_0_img_attn_qkv": 3 * width,
        "double_blocks_0_txt_attn_qkv": 3 * width,
        "double_blocks_0_img_attn_proj": width,
        "double_blocks_0_txt_mlp_0": mlp,
        "single_blocks_1_linear1": 3 * width + mlp,
        "single_blocks_1_linear2": width,
    }
    torch.manual_seed(0)
    pairs = {name: (torch.randn(2, 8), torch.randn(height, 2)) for name, height in heights.items()}
    state = {}
    for name, (down, up) in pairs.items():
        state |= {f"lora_unet_{name}.lora_down.weight": down, f"lora_unet_{name}.lora_up.weight": up}
        state[f"lora_unet_{name}.alpha"] = torch.tensor(2.0)
    with torch.device("meta"):
        model = FluxTransformer2DModel(num_layers=1, num_single_layers=2)
    known = lora_names.layers("unet", model)
    theirs = _convert_kohya_flux_lora_to_diffusers(dict(state))
    ours = {}
    for name, (down, up) in pairs.items():
        for path, rows in known[name]:
            height = len(model.get_submodule(path).weight)
            factors = Factors({"down": down, "up": up}, 2.0)
            ours[path] = factors.delta(torch.zeros(height, 8), rows)
    paths = {key.removeprefix("transformer.").rpartition(".lora_")[0] for key in theirs}
    assert ours.keys() == paths and len(ours) == 3 + 3 + 1 + 1 + 4 + 1
    for path, added in ours.items():
        down, up = (theirs[f"transformer.{path}.lora_{end}.weight"] for end in "AB")
        torch.testing.assert_close(added, up @ down, msg=path)


def test_joined_layers_are_refused_where_they_do_not_fit(tmp_path):
    name = "lora_unet_joint_blocks_0_x_block_attn_qkv"
    state = {f"{name}.lora_down.weight": torch.ones(2, 32), f"{name}.lora_up.weight": torch.ones(90, 2)}
    for more, words in (({}, "90 × 32 values"), ({f"{name}.dora_scale": torch.ones(96, 1)}, "a DoRA of layers that")):
        loras.write(tmp_path / "it.safetensors", state | more)
        pipeline = tiny.sd3()
        before = bits({"unet": pipeline.transformer})
        with (
            pytest.raises(LoraError, match=words),
            Merger().merged({"unet": pipeline.transformer}, [(Lora(name="it"), read(tmp_path))]),
        ):
            pass
        assert same(before, bits({"unet": pipeline.transformer}))


# the formulas in NumPy, with key names as kohya and LyCORIS write them


def test_loha(tmp_path):
    f = {
        "hada_w1_a": draw(512, 3),
        "hada_w1_b": draw(3, 64),
        "hada_w2_a": draw(512, 3),
        "hada_w2_b": draw(3, 65)[:, 1:],
    }
    before, after = weight_after(tmp_path, LINEAR, {**f, "alpha": 1.5}, weight=0.8)
    added = (f["hada_w1_a"] @ f["hada_w1_b"]) * (f["hada_w2_a"] @ f["hada_w2_b"]) * (1.5 / 3)
    close(after, before + 0.8 * added)


def test_loha_of_a_convolution_in_tucker_form(tmp_path):
    f = {"hada_w1_a": draw(4, 64), "hada_w1_b": draw(4, 32), "hada_t1": draw(4, 4, 3, 3)}
    f |= {"hada_w2_a": draw(4, 64) * 2, "hada_w2_b": draw(4, 32) * 2, "hada_t2": draw(4, 4, 3, 3) * 2}
    before, after = weight_after(tmp_path, CONV, {**f, "alpha": 2.0})
    first, second = (
        np.einsum("ijkl,ip,jr->prkl", f[f"hada_t{k}"], f[f"hada_w{k}_a"], f[f"hada_w{k}_b"]) for k in (1, 2)
    )
    close(after, before + first * second * (2 / 4))


def test_lokr_whole_and_low_rank(tmp_path):
    whole = {"lokr_w1": draw(4, 4), "lokr_w2": draw(128, 16)}
    before, after = weight_after(tmp_path, LINEAR, {**whole, "alpha": 1e8})  # whole ones have no rank to divide by
    close(after, before + np.kron(whole["lokr_w1"], whole["lokr_w2"]))
    low = {"lokr_w1": draw(4, 4), "lokr_w2_a": draw(128, 2), "lokr_w2_b": draw(2, 16)}
    before, after = weight_after(tmp_path, LINEAR, {**low, "alpha": 1.0})
    close(after, before + np.kron(low["lokr_w1"], low["lokr_w2_a"] @ low["lokr_w2_b"]) * (1 / 2))


def test_lokr_of_convolutions(tmp_path):
    f = {"lokr_w1_a": draw(4, 2), "lokr_w1_b": draw(2, 4), "lokr_w2_a": draw(16, 2), "lokr_w2_b": draw(2, 8 * 9)}
    before, after = weight_after(tmp_path, CONV, {**f, "alpha": 1.0})
    second = (f["lokr_w2_a"] @ f["lokr_w2_b"]).reshape(16, 8, 3, 3)
    first = f["lokr_w1_a"] @ f["lokr_w1_b"]
    close(after, before + np.kron(first[:, :, None, None], second) * (1 / 2))
    f = {"lokr_w1": draw(4, 4), "lokr_t2": draw(2, 2, 3, 3), "lokr_w2_a": draw(2, 16), "lokr_w2_b": draw(2, 8)}
    before, after = weight_after(tmp_path, CONV, {**f, "alpha": 1.0})
    second = np.einsum("ijkl,ip,jr->prkl", f["lokr_t2"], f["lokr_w2_a"], f["lokr_w2_b"])
    close(after, before + np.kron(f["lokr_w1"][:, :, None, None], second) * (1 / 2))


def test_locon_in_tucker_form(tmp_path):
    f = {
        "lora_down.weight": draw(4, 32, 1, 1),
        "lora_mid.weight": draw(4, 4, 3, 3),
        "lora_up.weight": draw(64, 4, 1, 1),
    }
    before, after = weight_after(tmp_path, CONV, {**f, "alpha": 4.0})
    down, mid, up = f.values()
    close(after, before + np.einsum("mnkl,im,nj->ijkl", mid, up[:, :, 0, 0], down[:, :, 0, 0]))


@pytest.mark.parametrize("kept", ["inputs", "outputs"])
@pytest.mark.parametrize(("path", "shape"), [(LINEAR, (512, 64)), (CONV, (64, 32, 3, 3))])
def test_dora_with_norms_of_inputs_or_outputs(tmp_path, kept, path, shape):
    down, up = draw(4, *shape[1:]), draw(shape[0], 4, *(1 for _ in shape[2:]))
    axis = 1 if kept == "inputs" else 0
    norms = np.abs(draw(*(n if k == axis else 1 for k, n in enumerate(shape)))) + 0.5
    state = {"lora_down.weight": down, "lora_up.weight": up, "alpha": 2.0, "dora_scale": norms}
    before, after = weight_after(tmp_path, path, state, weight=0.5)
    changed = before + (up.reshape(shape[0], 4) @ down.reshape(4, -1)).reshape(shape) * (2 / 4)
    others = tuple(k for k in range(len(shape)) if k != axis)
    dora = changed * norms / np.sqrt((changed**2).sum(axis=others, keepdims=True))
    close(after, before + 0.5 * (dora - before))


def test_whole_differences_of_weights_biases_and_norms(tmp_path):
    pipeline = tiny.sd()
    base = bits(networks(pipeline))
    state = {
        "lora_unet_conv_in.diff": torch.full((32, 4, 3, 3), 0.1),
        "lora_unet_conv_in.diff_b": torch.full((32,), 0.2),
        "lora_unet_conv_norm_out.w_norm": torch.full((32,), 0.3),
        "lora_te_text_model_final_layer_norm.b_norm": torch.full((32,), 0.4),
    }
    loras.write(tmp_path / "it.safetensors", state)
    after = merge(pipeline, (Lora(name="it"), read(tmp_path)))
    changed = {
        "unet conv_in.weight": 0.1,
        "unet conv_in.bias": 0.2,
        "unet conv_norm_out.weight": 0.3,
        "text_encoder final_layer_norm.bias": 0.4,
    }
    for name, tensor in after.items():
        torch.testing.assert_close(tensor, base[name] + changed.get(name, 0.0))


# switching


@functools.cache
def pair():
    pipeline = tiny.sd()
    return pipeline, bits(networks(pipeline))


def restored(base):
    """Another pipeline with these weights."""
    pipeline = tiny.sd()
    for name, part in networks(pipeline).items():
        part.load_state_dict({key: base[f"{name} {key}"] for key in part.state_dict()})
    return pipeline


def test_fifty_switches_and_failures_later_the_base_has_its_very_bits(tmp_path):
    pipeline, base = pair()
    shapes = loras.of(pipeline, loras.ATTENTION + CONVS)
    makers = [
        shapes,
        {"lora_unet": shapes["lora_unet"]},
        {"lora_te": shapes["lora_te"]},
        {"lora_unet": {LINEAR: (512, 64)}},
    ]
    for k, layers in enumerate(makers):
        loras.write(tmp_path / f"{k}.safetensors", loras.lora(layers, k))
    broken = loras.lora(shapes, 9)
    broken["lora_te_text_model_encoder_layers_2_self_attn_v_proj.lora_up.weight"] = torch.randn(33, 4)
    loras.write(tmp_path / "broken.safetensors", broken)
    files = [read(tmp_path, str(k)) for k in range(4)]
    merger, dice = Merger(), random.Random(0)
    for switch in range(50):
        picked = dice.sample(files, dice.randrange(4))
        chosen = [(Lora(name=file.name, weight=dice.choice([-1.0, 0.3, 2.0])), file) for file in picked]
        if switch % 10 == 4:
            spoilt = [*chosen, (Lora(name="broken"), read(tmp_path, "broken"))]
            with pytest.raises(LoraError, match="33 × 32"), merger.merged(networks(pipeline), spoilt):
                pass
            assert same(base, bits(networks(pipeline)))
        with merger.merged(networks(pipeline), chosen):
            if switch % 10 == 9:
                assert same(bits(networks(pipeline)), merge(restored(base), *chosen))
    with merger.merged(networks(pipeline), []):
        assert same(base, bits(networks(pipeline)))


def test_weight_0_touches_nothing_and_is_still_reported(tmp_path):
    pipeline, base = pair()
    loras.write(tmp_path / "it.safetensors", loras.lora(loras.of(pipeline)))
    with Merger().merged(networks(pipeline), [(Lora(name="it", weight=0.0), read(tmp_path))]) as merged:
        assert same(base, bits(networks(pipeline)))
    assert merged.reports[0].matched == {"unet": 32, "text_encoder": 12}
    assert merged.text_state == ()


def test_leaving_moves_no_weight_and_no_two_runs_share_them(tmp_path):
    pipeline, base = pair()
    loras.write(tmp_path / "it.safetensors", loras.lora(loras.of(pipeline)))
    merger, parts, wanted = Merger(), networks(pipeline), [(Lora(name="it"), read(tmp_path))]
    with merger.merged(parts, wanted):
        inside = bits(parts)
        with pytest.raises(RuntimeError, match="in use"), merger.merged(parts, []):
            pass
        assert same(inside, bits(parts))
    assert same(inside, bits(parts))
    with merger.merged(parts, []):
        assert same(base, bits(parts))


def test_half_precision_comes_back_too(tmp_path):
    pipeline = tiny.sd()
    pipeline.unet.to(torch.bfloat16)
    base = bits(networks(pipeline))
    loras.write(tmp_path / "it.safetensors", loras.lora({"lora_unet": loras.of(pipeline)["lora_unet"]}))
    merger = Merger()
    with merger.merged(networks(pipeline), [(Lora(name="it"), read(tmp_path))]):
        assert pipeline.unet.dtype == torch.bfloat16 and not same(base, bits(networks(pipeline)))
    with merger.merged(networks(pipeline), []):
        assert same(base, bits(networks(pipeline)))


# the report, and what does not fit


def test_what_no_layer_takes_is_reported(tmp_path):
    state = loras.lora(loras.of(tiny.sd()))
    state |= {
        "lora_unet_elsewhere.lora_down.weight": torch.ones(4, 4),
        "lora_unet_elsewhere.lora_up.weight": torch.ones(4, 4),
    }
    state |= {"something.else": torch.ones(1)}
    loras.write(tmp_path / "it.safetensors", state)
    with Merger().merged(networks(tiny.sd()), [(Lora(name="it"), read(tmp_path))]) as merged:
        (report,) = merged.reports
    assert report.matched == {"unet": 32, "text_encoder": 12}
    assert report.unmatched == ("something.else", "unet elsewhere")
    assert str(report) == "it: 44 of 46 layers merged (32 in unet, 12 in text_encoder)"


def misfits() -> dict[str, tuple[dict, str]]:
    name = loras.kohya("lora_unet", LINEAR)
    down, up = f"{name}.lora_down.weight", f"{name}.lora_up.weight"
    return {
        "no layer": (
            {"lora_unet_x.lora_down.weight": torch.ones(2, 2), "lora_unet_x.lora_up.weight": torch.ones(2, 2)},
            "fits nothing in this model",
        ),
        "another size": (
            {down: torch.ones(4, 96), up: torch.ones(512, 4)},
            "is made for 512 × 96 values, where the model has 512 × 64",
        ),
        "turned round": ({down: torch.ones(4, 512), up: torch.ones(64, 4)}, "is made for 64 × 512 values"),
        "ranks differ": ({down: torch.ones(4, 64), up: torch.ones(512, 5)}, "factors that do not fit each other"),
        "no bias": (
            {f"{loras.kohya('lora_unet', LINEAR).replace('ff_net_0_proj', 'attn1_to_q')}.diff_b": torch.ones(64)},
            "has no bias in this model",
        ),
        "too large": (
            {down: torch.full((4, 64), 3e38), up: torch.full((512, 4), 3e38)},
            "makes the model's numbers too large",
        ),
    }


@pytest.mark.parametrize("case", misfits())
def test_what_does_not_fit_is_refused_and_nothing_stays(tmp_path, case):
    pipeline, base = pair()
    state, words = misfits()[case]
    loras.write(tmp_path / "it.safetensors", state)
    with (
        pytest.raises(LoraError, match=words),
        Merger().merged(networks(pipeline), [(Lora(name="it"), read(tmp_path))]),
    ):
        pass
    assert same(base, bits(networks(pipeline)))
