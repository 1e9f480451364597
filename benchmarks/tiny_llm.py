"""A vision LLM of random weights in LLaVA's form, a few hundred kilobytes large, for benchmarks/llm_wire.py.

python benchmarks/tiny_llm.py FOLDER [--says TEXT]     (needs torch, transformers and pillow, and nothing of this project)

Without --says it speaks noise without end. With it, its language model looks at the last token only, and at the end of any prompt
says TEXT, one token of the vocabulary, and stops.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

CHAT = (
    "{% for message in messages %}<|turn|>{{ message['role'] }}: "
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<image>{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|answer|>{% endif %}"
)


def tokenizer(says: str) -> PreTrainedTokenizerFast:
    """Bytes, marks, and `says` as one token."""
    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    plain = Tokenizer(models.BPE(letters, []))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<|end|>", pad_token="<|pad|>")
    made.add_special_tokens({"additional_special_tokens": ["<image>", "<|turn|>", "<|answer|>"]})
    if says:
        made.add_tokens([AddedToken(says, normalized=False)])
    made.chat_template = CHAT
    return made


def model(words: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """Random weights, always the same ones."""
    torch.manual_seed(0)
    text = LlamaConfig(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=32768,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        bos_token_id=None,
    )
    sight = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=64,
        patch_size=16,
        projection_dim=64,
    )
    image = words.convert_tokens_to_ids("<image>")
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=sight, text_config=text, image_token_id=image)
    ).eval()


def say(made: LlavaForConditionalGeneration, chain: list[int]) -> None:
    """Make each token of `chain` follow the one before it, whatever stands further back."""
    with torch.no_grad():
        for layer in made.model.language_model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        seen = made.get_input_embeddings().weight
        for before, after in pairwise(chain):
            made.lm_head.weight[after] += 10 * seen[before] / seen[before].norm()


def main() -> None:
    """Write the model's folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--says", default="")
    options = parser.parse_args()
    words = tokenizer(options.says)
    made = model(words)
    if options.says:
        say(made, [*words.convert_tokens_to_ids(["<|answer|>", options.says]), words.eos_token_id])
    size = {"height": 64, "width": 64}
    pixels = CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=size)
    processor = LlavaProcessor(
        pixels,
        words,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )
    made.save_pretrained(options.folder)
    processor.save_pretrained(options.folder)


if __name__ == "__main__":
    main()
