"""Models of images and texts with the published keys, made tiny: a whole CLOSP with its tokenizer, a CLIP's folder."""

import json

import timm
import torch

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "trees",
    "crops",
    "water",
    "grass",
    "built",
    "bare",
    "annual",
    "crop",
    "forest",
    "herbaceous",
    "vegetation",
    "highway",
    "industrial",
    "pasture",
    "permanent",
    "residential",
    "river",
    "sea",
    "lake",
    "snow",
    "and",
    "ice",
    "a",
    "of",
    ".",
    "satellite",
    "image",
]
SPACE = 32  # numbers of the space of images and texts


def write_tokenizer(folder):
    """A BERT's configuration and vocabulary; the configuration."""
    folder.mkdir()
    config = {
        "model_type": "bert",
        "vocab_size": len(WORDS),
        "hidden_size": SPACE,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    )
    return config


def write_closp(path, folder, seed=0):
    """(radar encoder, projection, text model): what the file at `path` holds, as the training script saves it."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    config = json.loads((folder / "config.json").read_text()) if folder.exists() else write_tokenizer(folder)
    encoder = timm.create_model("test_vit", in_chans=2, num_classes=0).eval()
    map_to_text = torch.nn.Linear(encoder.num_features, SPACE)
    text = BertModel(BertConfig(**config)).eval()
    parts = {
        "s1_encoder": encoder,
        "s1_projection": map_to_text,
        "s2_encoder": timm.create_model("test_vit", in_chans=13, num_classes=0),
        "s2_projection": torch.nn.Linear(encoder.num_features, SPACE),
        "text_model": text,
    }
    torch.save({f"{part}.{key}": value for part, m in parts.items() for key, value in m.state_dict().items()}, path)
    return encoder, map_to_text, text


def write_clip(folder, seed=0):
    """A tiny CLIP in a folder as open_clip reads them; the whole model."""
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir()
    tower = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    config = {"model_cfg": {"embed_dim": 24, "vision_cfg": tower, "text_cfg": text}, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(seed)
    whole = open_clip.create_model(f"local-dir:{folder}", load_weights=False).eval()
    state = {key: tensor.contiguous().clone() for key, tensor in whole.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return whole
