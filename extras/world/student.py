"""The policy of a bundled world before it learns: its names, its tokenizer, an untrained Llama."""

import random

import tiktoken
import torch
from tiktoken._educational import bpe_train
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from extras.world.modes import ATTRIBUTES, EIGHT_OPENERS, OPERATORS, RELATIONS, VERSIONS

# what the chat template and the system prompt are made of
TEMPLATE_WORDS = ("system", "user", "assistant", "Search", "compute", "answer", "What")
WORDS = TEMPLATE_WORDS + tuple("in boxed of the The is use done Error No results".split())
TAGS = ("think", "search", "python", "result", "answer")
SPECIAL = ("<|pad|>", "<|im_start|>", "<|im_end|>") + tuple(
    f"<{slash}{tag}>" for tag in TAGS for slash in ("", "/")
)
PATTERN = r" ?[A-Za-z]+| ?[0-9]{1,2}| ?[^\sA-Za-z0-9]|\s"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def syllables(rng: random.Random) -> tuple[list[str], list[str]]:
    """64 first and 64 second syllables of names."""
    first, second = [], []
    while len(second) < 64:
        s = rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") + rng.choice("lmnrstx")
        if s not in first and s not in second:
            (first if len(first) < 64 else second).append(s)
    return [s.capitalize() for s in first], second


def build_tokenizer(first: list[str], second: list[str]) -> PreTrainedTokenizerFast:
    """A byte-pair vocabulary: every template word, syllable and number below 100 is a token."""
    plain = WORDS + RELATIONS + ATTRIBUTES + VERSIONS + tuple(OPERATORS) + EIGHT_OPENERS
    spaced = {f" {w}" for w in (*plain, *OPERATORS.values(), "\\", *first, *range(100))}
    numbers = {str(n) for n in range(100)}
    words = sorted(spaced | set(TEMPLATE_WORDS) | set(second) | numbers)
    ranks = smallest_vocabulary(words)
    encoding = tiktoken.Encoding(
        "world",
        pat_str=PATTERN,
        mergeable_ranks=ranks,
        special_tokens={s: len(ranks) + i for i, s in enumerate(SPECIAL)},
    )
    return to_hugging_face(encoding, ranks)


def smallest_vocabulary(words: list[str]) -> dict[bytes, int]:
    """Ranks of the smallest byte-pair vocabulary that holds every word whole."""
    # short words that begin alike take less than one and a half merges each
    size = 256 + 3 * len(words) // 2
    # letters of two bytes, each once: the last that are merged, so that size is always reached
    filler = "".join(map(chr, range(0x100, 0x100 + size - 256)))
    # a zero byte stays alone and merges with nothing
    ranks = bpe_train("\0".join(words) + filler, size, PATTERN, visualise=None)
    assert all(word.encode() in ranks for word in words), "more merges are needed"
    # a smaller vocabulary is the beginning of a larger one
    last = max(ranks[word.encode()] for word in words)
    return {token: rank for token, rank in ranks.items() if rank <= last}


def to_hugging_face(encoding: tiktoken.Encoding, ranks: dict) -> PreTrainedTokenizerFast:
    """The same vocabulary and ids as an ordinary tokenizer, which loads without tiktoken."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    # byte-level BPE writes each byte as a printable character
    stand_in = [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]

    def name(token: bytes) -> str:
        return "".join(stand_in[byte] for byte in token)

    merges = [
        (name(t[:i]), name(t[i:]))
        for t in sorted(ranks, key=ranks.get)
        for i in range(1, len(t))
        if t[:i] in ranks and t[i:] in ranks
    ]
    vocabulary = {name(t): rank for t, rank in ranks.items()}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(encoding._pat_str), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """An untrained Llama of 0.3 M parameters."""
    # a Llama: AutoTokenizer puts its own tokenizer into a Qwen2 folder
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=192,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)
