"""What a pipeline is made of: sources, LoRAs, words, precision, attention; and that misfits are named."""

import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from synthesis.stock import NEGATIVES, PROMPTS, make_folder, pictures

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.synthesis.adapters import LoraConfig
from styleavatar3d.synthesis.attention import use_attention
from styleavatar3d.synthesis.loading import PipelineConfig, describe, describe_models, load_parts
from styleavatar3d.synthesis.pipeline import Synthesizer
from styleavatar3d.synthesis.samplers import find_scheduler
from styleavatar3d.synthesis.sources import Source

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="session")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder("sd15", tmp_path_factory.mktemp("models") / "sd15")


@pytest.fixture(scope="session")
def lora(sd15: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA that some other training run would leave: random, of the UNet's attention."""
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from peft import LoraConfig as Peft
    from peft import get_peft_model_state_dict

    unet = UNet2DConditionModel.from_pretrained(sd15, subfolder="unet")
    unet.add_adapter(Peft(r=2, init_lora_weights="gaussian", target_modules=["to_q", "to_v"]))
    torch.manual_seed(0)
    for name, weight in unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    folder = tmp_path_factory.mktemp("lora")
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=get_peft_model_state_dict(unet))
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    return folder


def draw(synthesizer: Synthesizer, prompts: list[str] = PROMPTS) -> torch.Tensor:
    return synthesizer.generate(prompts, NEGATIVES, pictures(), [1, 2], 2, 3.0)


def test_a_lora_changes_pictures_by_its_weight_and_can_be_switched_off(sd15: Path, lora: Path):
    plain = draw(Synthesizer.from_pretrained(sd15, "cpu", "float32"))
    styled = Synthesizer.from_pretrained(sd15, "cpu", "float32", loras={"clay": {"source": str(lora), "weight": 0.5}})
    half = draw(styled)
    assert not torch.equal(half, plain)
    styled.use_loras({"clay": 1.0})
    assert not torch.equal(draw(styled), half)
    styled.use_loras({})
    assert (draw(styled).int() - plain.int()).abs().max() <= 1
    with pytest.raises(StyleAvatarError, match="no such LoRA"):
        styled.use_loras({"oil": 1.0})


def test_a_lora_of_another_model_is_refused(sd15: Path, tmp_path: Path):
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_"
    save_file(
        {f"{name}A.weight": torch.ones(2, 999), f"{name}B.weight": torch.ones(999, 2)}, tmp_path / "x.safetensors"
    )
    with pytest.raises(StyleAvatarError, match="does not fit"):
        load_parts(PipelineConfig(folder=str(sd15), device="cpu", loras={"x": LoraConfig(source=str(tmp_path))}))
    (tmp_path / "y.safetensors").write_bytes(b"no tensors")
    with pytest.raises(StyleAvatarError, match="cannot be told"):
        load_parts(PipelineConfig(folder=str(sd15), device="cpu", loras={"x": LoraConfig(source=str(tmp_path))}))
    with pytest.raises(StyleAvatarError, match="cannot be read"):
        load_parts(
            PipelineConfig(
                folder=str(sd15), device="cpu", loras={"x": LoraConfig(source=str(tmp_path), file="y.safetensors")}
            )
        )


def test_a_word_of_several_vectors_is_learned(sd15: Path, tmp_path: Path):
    torch.manual_seed(0)
    save_file({"emb_params": torch.randn(2, 16)}, tmp_path / "zorg.safetensors")
    words = {"zorg": str(tmp_path / "zorg.safetensors")}
    taught = Synthesizer.from_pretrained(sd15, "cpu", "float32", embeddings=words)
    untaught = Synthesizer.from_pretrained(sd15, "cpu", "float32")
    prompts = ["a zorg with red hair", PROMPTS[1]]
    assert not torch.equal(draw(taught, prompts)[0], draw(untaught, prompts)[0])
    assert (draw(taught, prompts)[1].int() - draw(untaught, prompts)[1].int()).abs().max() <= 1
    assert taught.texts.encode(["zorg"], None, (64, 64)).states.shape[1] == 16
    save_file({"clip_l": torch.ones(1, 16), "clip_g": torch.ones(1, 16)}, tmp_path / "xl.safetensors")
    with pytest.raises(StyleAvatarError, match="another family"):
        load_parts(PipelineConfig(folder=str(sd15), device="cpu", embeddings={"x": str(tmp_path / "xl.safetensors")}))


def test_a_word_for_sdxl_is_learned_by_both_towers(tmp_path: Path):
    folder = make_folder("sdxl", tmp_path / "sdxl")
    save_file({"clip_l": torch.ones(1, 16), "clip_g": -torch.ones(1, 16)}, tmp_path / "word.safetensors")
    config = PipelineConfig(folder=str(folder), device="cpu", embeddings={"zorg": str(tmp_path / "word.safetensors")})
    pipeline, _ = load_parts(config)
    for tower, value in ((pipeline.text_encoder, 1.0), (pipeline.text_encoder_2, -1.0)):
        assert (tower.get_input_embeddings().weight[-1] == value).all()


def test_all_weights_are_described_with_their_licences(sd15: Path, lora: Path):
    config = PipelineConfig(folder=str(sd15), loras={"clay": LoraConfig(source=str(lora))})
    models = describe_models(config)
    assert [(model.id, model.licence) for model in models] == [
        ("sd15", "cc0-1.0"), ("depth", "cc0-1.0"), ("keypoints", "cc0-1.0"),
        ("pytorch_lora_weights.safetensors", "cc-by-4.0"),
    ]  # fmt: skip
    assert len({model.sha256 for model in models}) == 4
    assert describe(config).licence == "cc0-1.0, cc-by-4.0"


def test_half_precision_draws_the_same_picture_almost(sd15: Path):
    full, half = (draw(Synthesizer.from_pretrained(sd15, "cpu", number)) for number in ("float32", "bfloat16"))
    assert (full.int() - half.int()).abs().float().mean() < 4
    sliced = draw(Synthesizer.from_pretrained(sd15, "cpu", "float32", vae_slicing=True))
    assert (full.int() - sliced.int()).abs().max() <= 1


def test_the_attention_switch_says_why_xformers_is_not_to_be_had(sd15: Path):
    assert use_attention("auto", [], "cpu") == "sdpa"
    with pytest.raises(StyleAvatarError, match="(?s)xformers.*CUDA.*model.attention sdpa"):
        use_attention("xformers", [], "cpu")


def test_a_hub_id_must_be_pinned_and_in_reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with pytest.raises(StyleAvatarError, match="(?s)must name its commit.*main.*40 hexadecimal.*owner/name@COMMIT"):
        Source("owner/name", "main").locate()
    with pytest.raises(StyleAvatarError, match="(?s)no such weights.*no/such/path"):
        Source("no/such/path").locate()
    with pytest.raises(StyleAvatarError, match=f"(?s)cannot be had.*owner/name@{COMMIT}, offline.*hf download"):
        Source(f"owner/name@{COMMIT}").locate(offline=True)
    with socket.socket() as nobody, monkeypatch.context() as patch:
        nobody.bind(("127.0.0.1", 0))
        patch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        with pytest.raises(StyleAvatarError, match=f"(?s)cannot be had.*owner/name@{COMMIT}.*in reach.*hf download"):
            Source("owner/name", COMMIT).locate()


def test_misfits_are_named(sd15: Path, tmp_path: Path):
    config = PipelineConfig(folder=str(sd15), device="cpu")
    with pytest.raises(StyleAvatarError, match="no such scheduler"):
        find_scheduler("magic", {})
    with pytest.raises(StyleAvatarError, match="(?s)not of the family sdxl.*cross_attention_dim"):
        load_parts(config.model_copy(update={"family": "sdxl"}))
    other = make_folder("sdxl", tmp_path / "sdxl")
    with pytest.raises(StyleAvatarError, match="(?s)ControlNet for depth is of another family.*cross_attention_dim"):
        load_parts(config.model_copy(update={"controlnets": {"depth": str(other / "controlnets" / "depth")}}))
    (other / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(StyleAvatarError, match="(?s)FluxPipeline.*StableDiffusionXLPipeline"):
        load_parts(PipelineConfig(folder=str(other), device="cpu"))


def test_a_call_that_does_not_add_up_is_named(sd15: Path):
    synthesizer = Synthesizer.from_pretrained(sd15, "cpu", "float32")
    with pytest.raises(StyleAvatarError, match="one of each"):
        synthesizer.generate(PROMPTS, NEGATIVES, pictures(), [1], 2, 3.0)
    with pytest.raises(StyleAvatarError, match="multiples of 8"):
        synthesizer.generate(PROMPTS, NEGATIVES, {"depth": pictures()["depth"][:, :60]}, [1, 2], 2, 3.0)
    with pytest.raises(StyleAvatarError, match="no step is left"):
        synthesizer.generate(PROMPTS, NEGATIVES, pictures(), [1, 2], 4, 3.0, (), pictures()["depth"], 0.1)
