"""Text encoders of random weights, small enough to be made in a test."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.:-,/()<>%"
HEADS = {"head_width": 8}
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def small_bert(folder: Path, kind: str = "bert", seed: int = 0) -> Path:
    """A BERT that reads letter by letter; kind: the model type that its config.json names."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=1024,
    )
    BertModel(config).save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"model_type": kind}))
    return folder


def small_clip(folder: Path) -> Path:
    """A CLIP of both towers, whose text tower reads 77 tokens."""
    ends = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), *ends.values()]
    vocabulary = {word: i for i, word in enumerate(words)}
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer"}')
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = small | {
        "vocab_size": len(words),
        "intermediate_size": 64,
        "bos_token_id": vocabulary[ends["bos_token"]],
        "eos_token_id": vocabulary[ends["eos_token"]],
        "pad_token_id": vocabulary[ends["eos_token"]],
    }
    vision = small | {"image_size": 32, "patch_size": 16, "intermediate_size": 64}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    return folder


def small_open_clip(folder: Path, text_tower: Path | None = None) -> Path:
    """A model of the open_clip library, which must be installed.

    text_tower: a folder of `small_bert`, to be its text tower as PubMedBERT is BiomedCLIP's.
    """
    import open_clip

    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1} | HEADS,
        "text_cfg": {"width": 16, "layers": 1, "heads": 2, "context_length": 77},
    }
    folder.mkdir(parents=True)
    if text_tower is not None:
        config["text_cfg"] = {
            "hf_model_name": str(text_tower),
            "hf_tokenizer_name": str(text_tower),
            "hf_model_pretrained": False,
            "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler",
            "context_length": 256,
        }
        for file in ("vocab.txt", "tokenizer_config.json", "config.json"):
            (folder / file).write_text((text_tower / file).read_text())
    torch.manual_seed(0)
    model = open_clip.CustomTextCLIP(**config)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {}})
    )
    return folder
