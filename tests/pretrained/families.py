"""Small models of every family whose weights are read, with numbers that follow from the names of their arrays.

What the libraries' own programs give for them is recorded in families.json, without the weights:
`python tests/pretrained/families.py` records it anew, with transformers, timm and torchvision.
"""

import json
import sys
import tempfile
import zlib
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file

RECORDED = Path(__file__).parents[1] / "fixtures/pretrained/families.json"


class Case(NamedTuple):
    library: str
    make: Callable[[], Any]  # the library's model
    output: Callable[[Any, Any, bool], Any]  # of the model, images (B, C, H, W) and whether they are of the second size
    told: dict[str, Any]  # to `load`, which files don't tell
    config: dict[str, Any] | None = None  # content of a config.json; transformers write their own
    sizes: tuple[tuple[int, int], ...] = ((16, 16), (24, 12))  # positions are resized for the second


def images(size: tuple[int, int]) -> np.ndarray:
    """(2, H, W, 3) float32."""
    return np.random.RandomState(size[0]).normal(size=(2, *size, 3)).astype(np.float32)


def numbers(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Of an array, float32, by its name and shape alone, so that none goes unnoticed."""
    x = np.random.RandomState(zlib.crc32(name.encode())).normal(size=shape).astype(np.float32)
    if len(shape) > 1:
        return x * np.float32(1.2 / np.sqrt(shape[-1]))
    scales = name.endswith("weight") or any(part in name for part in ("lambda", "gamma", "scale"))
    return np.asarray(x * np.float32(0.3) + np.float32(scales))


def written(folder: Path, arrays: dict[str, tuple[int, ...]], config: dict[str, Any] | None) -> Path:
    """The weights on the disk, and the path by which `load` finds them."""
    save_file({name: numbers(name, tuple(shape)) for name, shape in arrays.items()}, folder / "model.safetensors")
    if config is None:
        return folder / "model.safetensors"
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def measured(case: Case, folder: Path) -> dict[str, Any]:
    """A case as families.json has it; its weights are left in the folder."""
    import torch

    model, config = case.make(), case.config
    if case.library == "transformers":
        model.save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        shapes = {name: x.shape for name, x in load_file(folder / "model.safetensors").items()}
        written(folder, shapes, config)
        model = type(model).from_pretrained(folder)
    else:
        shapes = {name: tuple(x.shape) for name, x in model.state_dict().items()}
        written(folder, shapes, config)
        model.load_state_dict({name: torch.from_numpy(numbers(name, shape)) for name, shape in shapes.items()})
    model, outputs = model.eval(), {}
    with torch.inference_mode():
        for size in case.sizes:
            x = torch.from_numpy(images(size).transpose(0, 3, 1, 2).copy())
            outputs[f"{size[0]}x{size[1]}"] = case.output(model, x, size != case.sizes[0]).numpy().tolist()
    made_by = f"{case.library} {metadata.version(case.library)}"
    return {"made_by": made_by, "told": case.told, "config": config, "arrays": shapes, "outputs": outputs}


def _of_transformers() -> dict[str, Case]:
    import torch
    import transformers as t

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 4}
    mlp = {**sizes, "intermediate_size": 24}
    labels = {"num_labels": 5}
    text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    text |= {"vocab_size": 4, "max_position_embeddings": 2, "bos_token_id": 0, "eos_token_id": 1}
    towers = {"vision_config": mlp, "text_config": text}

    def case(model: Any, config: Any, output: Any, **told: Any) -> Case:
        return Case("transformers", lambda: model(config), output, told)

    def by(key: str, resized: dict[str, bool], model: Any, x: Any, other: bool) -> Any:
        return model(pixel_values=x, **(resized if other else {}))[key]

    always: dict[str, bool] = {}  # positions follow the images, without being asked to
    asked = {"interpolate_pos_encoding": True}
    logits, pooled = partial(by, "logits", asked), partial(by, "pooler_output", asked)

    def of_tower(model: Any, x: Any, other: bool) -> Any:
        found = model.get_image_features(pixel_values=x, **(asked if other else {}))
        return getattr(found, "pooler_output", found)

    def unmasked(model: Any, x: Any, other: bool) -> Any:
        order = torch.arange(18.0 if other else 16.0)[None].repeat(len(x), 1)
        return model.vit(pixel_values=x, noise=order, interpolate_pos_encoding=other).last_hidden_state[:, 0]

    def in_patches(model: Any, x: Any, other: bool) -> Any:
        b, c, h, w = x.shape
        patches = x.reshape(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(b, -1, 16 * c)
        mask = torch.ones(b, patches.shape[1], dtype=torch.int32)
        shape = torch.tensor([[h // 4, w // 4]] * b)
        return model(pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=shape).pooler_output

    decoder = {f"decoder_{key}": value for key, value in text.items() if key in list(mlp)} | {"mask_ratio": 0.0}
    tower = {key: value for key, value in mlp.items() if key != "image_size"}
    registers = {**mlp, "num_register_tokens": 2}
    free = partial(by, "logits", always), partial(by, "pooler_output", always)
    return {
        "vit": case(t.ViTForImageClassification, t.ViTConfig(**mlp, **labels), logits),
        "vit_msn": case(t.ViTMSNForImageClassification, t.ViTMSNConfig(**mlp, **labels), logits),
        "vit_mae": case(t.ViTMAEForPreTraining, t.ViTMAEConfig(**mlp, **decoder), unmasked, num_classes=0),
        "deit": case(t.DeiTForImageClassification, t.DeiTConfig(**mlp, **labels), logits),
        "deit, two classifiers": case(t.DeiTForImageClassificationWithTeacher, t.DeiTConfig(**mlp, **labels), logits),
        "dinov2": case(t.Dinov2ForImageClassification, t.Dinov2Config(**sizes, mlp_ratio=2, **labels), free[0]),
        "dinov2, SwiGLU": case(t.Dinov2Model, t.Dinov2Config(**sizes, use_swiglu_ffn=True), free[1], num_classes=0),
        "dinov2_with_registers": case(
            t.Dinov2WithRegistersForImageClassification,
            t.Dinov2WithRegistersConfig(**sizes, num_register_tokens=2, **labels),
            free[0],
        ),
        "dinov3_vit": case(t.DINOv3ViTModel, t.DINOv3ViTConfig(**registers), free[1], num_classes=0),
        "dinov3_vit, SwiGLU": case(
            t.DINOv3ViTModel,
            t.DINOv3ViTConfig(**registers, use_gated_mlp=True, hidden_act="silu"),
            free[1],
            num_classes=0,
        ),
        "clip": case(t.CLIPModel, t.CLIPConfig(**towers, projection_dim=6), of_tower),
        "clip_vision_model": case(t.CLIPVisionModel, t.CLIPVisionConfig(**mlp), pooled, num_classes=0),
        "clip_vision_model, projected": case(
            t.CLIPVisionModelWithProjection,
            t.CLIPVisionConfig(**mlp, projection_dim=6),
            partial(by, "image_embeds", asked),
        ),
        "siglip": case(t.SiglipModel, t.SiglipConfig(**towers), of_tower, num_classes=0),
        "siglip, classifier": case(t.SiglipForImageClassification, t.SiglipConfig(**towers, **labels), logits),
        "siglip_vision_model": case(t.SiglipVisionModel, t.SiglipVisionConfig(**mlp), pooled, num_classes=0),
        "siglip2": case(
            t.Siglip2Model,
            t.Siglip2Config(vision_config=tower | {"num_patches": 16}, text_config=text),
            lambda model, x, other: in_patches(model.vision_model, x, other),
            num_classes=0,
        ),
        "siglip2_vision_model": case(
            t.Siglip2VisionModel, t.Siglip2VisionConfig(**tower, num_patches=16), in_patches, num_classes=0
        ),
    }


def _of_timm() -> dict[str, Case]:
    import torch
    from timm import layers
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer
    from timm.models.vision_transformer_hybrid import _resnetv2

    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}
    near = partial(layers.LayerNorm, eps=1e-5)
    silu = {"act_layer": torch.nn.SiLU}

    def logits(model: Any, x: Any, other: bool) -> Any:
        if other and not isinstance(model, Eva):
            model.set_input_size(img_size=tuple(x.shape[2:]))
        return model(x)

    def case(architecture: str = "", told: Any = None, kind: Any = VisionTransformer, **keys: Any) -> Case:
        config = {"architecture": architecture, "num_classes": 5} if architecture else None
        return Case("timm", lambda: kind(**{**sizes, **keys}), logits, {"heads": 2, **(told or {})}, config)

    def hybrid(stages: tuple[int, ...], **keys: Any) -> Case:
        layer = partial(layers.HybridEmbed, backbone=_resnetv2(stages), proj=True)
        sides = {"img_size": 64, "patch_size": 1, "embed_layer": layer, **keys}
        return case(**sides)._replace(sizes=((64, 64), (96, 64)))

    tail = {"global_pool": "map", "class_token": False}
    dinov3 = {"rope_type": "dinov3", "rope_temperature": 100, "rope_rotate_half": True, "use_rot_pos_emb": True}
    dinov3 |= {"use_abs_pos_emb": False, "num_reg_tokens": 2, "use_fc_norm": False, "init_values": 1e-5}
    dinov3 |= {"norm_layer": near, "dynamic_img_size": True, "kind": Eva}
    eva02 = {"kind": Eva, "swiglu_mlp": True, "use_rot_pos_emb": True, "ref_feat_shape": (16, 16)}
    eva02 |= {"dynamic_img_size": True, "mlp_ratio": 1.5}
    return {
        "hybrid, R10": hybrid((1, 2)),
        "hybrid, root": hybrid((), patch_size=4),
        "EVA": case("eva_giant_patch14_224", kind=Eva, dynamic_img_size=True),
        "EVA-02": case(**eva02),
        "EVA-02, norms in MLPs": case("eva02_base_patch14_448", qkv_fused=False, scale_mlp=True, **eva02),
        "distilled": case("deit_tiny_distilled_patch16_224", kind=VisionTransformerDistilled),
        "distilled, alone": case(kind=VisionTransformerDistilled),
        "CLIP": case("vit_base_patch16_clip_224", pre_norm=True, norm_layer=near),
        "CLIP, quick GELU": case(
            "vit_base_patch16_clip_quickgelu_224", pre_norm=True, norm_layer=near, act_layer="quick_gelu"
        ),
        "CLIP, alone": case(told={"norm_eps": 1e-5, "activation": "gelu"}, pre_norm=True, norm_layer=near),
        "SwiGLU, packed": case(mlp_layer=layers.SwiGLUPacked, no_embed_class=True, reg_tokens=4, **silu),
        "SwiGLU": case(mlp_layer=layers.SwiGLU, **silu),
        "DeiT III": case(no_embed_class=True, init_values=1e-6),
        "mean with a class token": case(global_pool="avg"),
        "mean, norm before": case(global_pool="avg", class_token=False, fc_norm=False),
        "SigLIP": case("vit_base_patch16_siglip_224", **tail),
        "SigLIP, tanh": case("vit_so400m_patch16_siglip_256", act_layer="gelu_tanh", **tail),
        "no positions": case(told={"image_size": 16}, pos_embed="none"),
        "DINOv3": case(told={"image_size": 16}, qkv_bias=False, **dinov3),
        "DINOv3, biases": case(told={"image_size": 16}, qkv_bias=True, **dinov3),
        "DINOv3, SwiGLU": case(
            "vit_small_plus_patch16_dinov3", told={"image_size": 16}, qkv_bias=False, swiglu_mlp=True, **dinov3
        ),
    }


def _of_torchvision() -> dict[str, Case]:
    from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

    def make(size: int = 16) -> Any:
        return VisionTransformer(size, 4, 2, 2, 16, 24, num_classes=5)

    def logits(model: Any, x: Any, other: bool) -> Any:
        if other:
            larger = make(24).eval()
            larger.load_state_dict(interpolate_embeddings(24, 4, model.state_dict()))
            return larger(x)
        return model(x)

    squares = ((16, 16), (24, 24))  # it has no others
    return {"VisionTransformer": Case("torchvision", make, logits, {"heads": 2}, sizes=squares)}


CASES = {"transformers": _of_transformers, "timm": _of_timm, "torchvision": _of_torchvision}


def main() -> None:
    """Records all cases of these libraries; those of others stay."""
    recorded = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    for library, cases in CASES.items():
        recorded = {name: case for name, case in recorded.items() if not name.startswith(f"{library}: ")}
        for name, case in cases().items():
            with tempfile.TemporaryDirectory() as folder:
                recorded[f"{library}: {name}"] = measured(case, Path(folder))
    lines = (f"{json.dumps(name)}: {json.dumps(case)}" for name, case in sorted(recorded.items()))
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    sys.exit(main())
