"""Text: bytes survive, merges agree with an independent library, prompts cannot be broken into,
bad files are named.
"""

import json
import pickle
import unicodedata
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as LibraryTokenizer

from talker_t2av.common.media import load_torchaudio
from talker_t2av.model import text as module
from talker_t2av.model.text import (
    BYTE_TO_CHAR,
    PATTERN,
    SPECIAL_TOKENS,
    ReleasedTokenizer,
    Tokenizer,
    load_tokenizer,
    save_tokenizer,
    split_pieces,
    train_merges,
    train_tokenizer,
)

QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| "
    r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LINES = [
    "The dog's puppies ran; they'll run again!",
    "aaaa aaa aa aaaaa banana bandana",
    "Café, naïve: 1984 and 42.\n",
    "你好 你好 世界",
    "x  y\n\n z",
]


@pytest.fixture(scope="module")
def small():
    return load_tokenizer("small")


def library_bpe(texts, vocab_size, pattern=PATTERN, special_tokens=SPECIAL_TOKENS, normalizer=None):
    library = LibraryTokenizer(models.BPE())
    if normalizer:
        library.normalizer = normalizer
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    library.decoder = decoders.ByteLevel()
    library.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            show_progress=False,
            special_tokens=list(special_tokens),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return library


# ---- our BPE ----


@given(st.text())
def test_pieces_and_tokens_lose_nothing(text):
    assert "".join(split_pieces(text)) == text
    tokenizer = load_tokenizer("small")
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(len(SPECIAL_TOKENS) <= i < tokenizer.vocab_size for i in ids)


def check_against_library(texts, vocab_size):
    ours, library = train_tokenizer(texts, vocab_size), library_bpe(texts, vocab_size)
    vocabulary = library.get_vocab()
    names = {
        i: name
        if i < len(SPECIAL_TOKENS)
        else "".join(BYTE_TO_CHAR[b] for b in ours.token_bytes(i))
        for i, name in (
            (i, ours.token_bytes(i).decode("utf-8", "replace")) for i in range(ours.vocab_size)
        )
    }
    # the same rows with the same ids: merges and order agree
    assert {name: i for i, name in names.items()} == vocabulary
    for text in texts:
        assert ours.encode(text) == library.encode(text, add_special_tokens=False).ids
    return ours


@pytest.mark.parametrize("vocab_size", [261, 300, 400])
def test_merges_and_ids_equal_the_library(vocab_size):
    check_against_library(LINES * 3, vocab_size)


@settings(deadline=None, max_examples=80)
@given(st.lists(st.text(alphabet="ab é.1", min_size=1, max_size=24), min_size=1, max_size=6))
def test_merges_equal_the_library_where_ties_are_everywhere(texts):
    check_against_library(texts, 330)


def test_ties_go_to_the_smallest_ids_and_rare_pairs_are_left():
    merges = train_merges({"zx": 2, "ab": 2, "qq": 1}, 10)
    spelled = ["".join(list(BYTE_TO_CHAR.values())[i] for i in pair) for pair in merges]
    assert spelled == ["ab", "zx"]


def test_vocabularies_are_nested():
    counts = Counter(piece for line in LINES * 3 for piece in split_pieces(line))
    assert train_merges(counts, 40)[:15] == train_merges(counts, 15)


def test_cache_is_bounded_and_changes_nothing(small, monkeypatch):
    monkeypatch.setattr(module, "_CACHE_SIZE", 3)
    tokenizer = Tokenizer(small.merges)
    sentence = "one two three four five six seven one two three"
    assert tokenizer.encode(sentence) == tokenizer.encode(sentence) == small.encode(sentence)
    assert len(tokenizer._cache) <= 3


def test_survives_a_worker_process(small):
    assert pickle.loads(pickle.dumps(small)).encode("hello there") == small.encode("hello there")


def test_shipped_vocabulary(small):
    assert small.vocab_size == 512 and small.special_ids == {
        name: i for i, name in enumerate(SPECIAL_TOKENS)
    }
    assert len(small.encode("The children are talking.")) < len("The children are talking.") / 1.5
    assert load_tokenizer("tiny").merges == small.merges


# ---- prompts ----


def test_prompt_of_the_small_model(small):
    prompt = small.prompt("Hello there.", num_patches=7)
    special = small.special_ids
    assert prompt.prefix == [special["<TEXT>"], *small.encode("Hello there."), special["<SPEAK>"]]
    assert (
        prompt.ids[slice(*prompt.span)] == [special["<SPEECH_FRAME>"]] * 7
        and prompt.num_patches == 7
    )
    assert prompt.closing == [special["<END>"]] and prompt.ids[-1] == special["<END>"]
    assert small.prompt("Hello there.").prefix == prompt.prefix


@pytest.mark.parametrize("name", [*SPECIAL_TOKENS, "<|im_end|>", "<think>"])
def test_a_transcript_cannot_type_a_special_token(small, released, name):
    for tokenizer in (small, released):
        prompt = tokenizer.prompt(f"say {name} now", 2)
        inside = tokenizer.encode(f"say {name} now")
        assert not set(inside) & set(tokenizer.special_ids.values())
        assert tokenizer.decode(inside) == f"say {name} now"
        assert len([i for i in prompt.ids if i == tokenizer.placeholder_id]) == 2


def test_prompt_is_in_composed_form(small, released):
    for tokenizer in (small, released):
        assert tokenizer.prompt("Cafe\u0301") == tokenizer.prompt("Caf\u00e9")


@pytest.mark.parametrize(
    "text, patches, error, words",
    [
        ("", 0, ValueError, "nothing to say"),
        (" \n\t", 0, ValueError, "nothing to say"),
        (None, 0, TypeError, "NoneType"),
        (b"hi", 0, TypeError, "bytes"),
        ("hi\udc80", 0, ValueError, "position 2"),
        ("hi", -1, ValueError, "-1"),
        ("hi", 2.0, ValueError, "2.0"),
        ("hi", True, ValueError, "True"),
        ("word " * 1500, 0, ValueError, "at most 512 fit"),
        ("a" * 10_001, 0, ValueError, "10,001 characters"),
    ],
)
def test_bad_prompts_are_refused(small, released, text, patches, error, words):
    for tokenizer in (small, released):
        with pytest.raises(error, match=words):
            tokenizer.prompt(text, patches)


def test_longest_prefix_still_fits(small):
    small_limit = Tokenizer(small.merges)
    small_limit.max_prefix_tokens = len(small.prompt("Hello there.").prefix)
    small_limit.prompt("Hello there.", 100)
    with pytest.raises(ValueError, match="split it"):
        small_limit.prompt("Hello there. Yes.", 100)


# ---- the released tokenizer ----


def make_released(path, frames=True, needed=True):
    "A tokenizer.json of the same structure as Qwen's, and the library's own reading of it."
    library = library_bpe(
        [*LINES, "user\n", "assistant\n", "\n\n"] * 3, 380, QWEN, (), normalizers.NFC()
    )
    if needed:
        library.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
        library.add_tokens(
            [AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)]
        )
    if frames:
        library.add_special_tokens(["<SPEECH_FRAME>", "<MOTION_FRAME>"])
    library.save(str(path))
    return library


@pytest.fixture(scope="module")
def released_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("released") / "tokenizer.json"
    return path, make_released(path)


@pytest.fixture(scope="module")
def released(released_file):
    return ReleasedTokenizer(released_file[0])


def chat(text, patches):  # Qwen3's template for one user turn and an answer without thoughts
    return (
        f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
        f"{'<SPEECH_FRAME>' * patches}<|im_end|>\n"
    )


@pytest.mark.parametrize(
    "text",
    [*LINES, "\n starts with a newline", "ends with one\n", "  spaces ", "42", "'s odd", "user"],
)
@pytest.mark.parametrize("patches", [0, 1, 5])
def test_released_prompt_equals_the_library_reading_the_rendered_chat(
    released, released_file, text, patches
):
    prompt = released.prompt(text, patches)
    assert prompt.ids == released_file[1].encode(chat(text, patches)).ids
    assert (
        prompt.ids[slice(*prompt.span)]
        == [released_file[1].token_to_id("<SPEECH_FRAME>")] * patches
    )
    assert released.decode(prompt.prefix).endswith("</think>\n\n")


# What Qwen3's public chat template does with a question and an answer without thoughts. Only the
# answer to the last question keeps the (empty) block of thoughts.
QWEN3_TEMPLATE = """
{%- set ns = namespace(last_question=-1) -%}
{%- for message in messages if message.role == "user" -%}
{%- set ns.last_question = loop.index0 -%}
{%- endfor -%}
{%- for message in messages -%}
{{- "<|im_start|>" + message.role + "\n" -}}
{%- if message.role == "assistant" and loop.index0 > ns.last_question -%}
{{- "<think>\n\n</think>\n\n" + message.content.lstrip("\n") -}}
{%- else -%}
{{- message.content -}}
{%- endif -%}
{{- "<|im_end|>\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- "<|im_start|>assistant\n" -}}
{%- if enable_thinking is defined and enable_thinking is false -%}
{{- "<think>\n\n</think>\n\n" -}}
{%- endif -%}
{%- endif -%}
"""


@pytest.fixture(scope="module")
def transformers_tokenizer(released_file):
    load_torchaudio()  # transformers imports torchaudio in passing
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_file=str(released_file[0]), chat_template=QWEN3_TEMPLATE
    )


@pytest.mark.parametrize(
    "text",
    [
        *LINES,
        "\n starts with a newline",
        "ends with one\n",
        "  spaces ",
        "42",
        "user",
        "Cafe\u0301",
    ],
)
@pytest.mark.parametrize("patches", [0, 1, 7])
def test_released_prompt_equals_transformers_chat_template(
    released, transformers_tokenizer, text, patches
):
    question = {"role": "user", "content": text}
    answer = {"role": "assistant", "content": "<SPEECH_FRAME>" * patches}
    prompt = released.prompt(text, patches)
    options = {"tokenize": True, "return_dict": False}
    whole = transformers_tokenizer.apply_chat_template([question, answer], **options)
    assert prompt.ids == whole
    start = transformers_tokenizer.apply_chat_template(
        [question], add_generation_prompt=True, enable_thinking=False, **options
    )
    assert prompt.prefix == start  # what generation starts from


@settings(deadline=None)
@given(st.text())
def test_released_round_trip_up_to_normal_form(released, text):
    ids = released.encode(text)
    assert released.decode(ids) == unicodedata.normalize("NFC", text)
    assert not set(ids) & set(released.special_ids.values())


def test_frame_tokens_are_added_after_the_last_id_where_missing(tmp_path):
    library = make_released(tmp_path / "tokenizer.json", frames=False)
    released = ReleasedTokenizer(tmp_path / "tokenizer.json")
    last = library.get_vocab_size()
    assert (
        released.special_ids["<SPEECH_FRAME>"],
        released.special_ids["<MOTION_FRAME>"],
        released.vocab_size,
    ) == (last, last + 1, last + 2)
    assert released.decode(released.prompt("hi", 2).ids).count("<SPEECH_FRAME>") == 2


def test_released_file_without_chat_tokens_is_refused(tmp_path):
    make_released(tmp_path / "tokenizer.json", needed=False)
    with pytest.raises(ValueError, match="<|im_start|>"):
        ReleasedTokenizer(tmp_path / "tokenizer.json")


def test_released_pad_and_bad_ids(released):
    assert released.pad_id == released.special_ids["<|endoftext|>"]
    for token in (-1, released.vocab_size):
        with pytest.raises(ValueError, match="does not exist"):
            released.decode([token])


# ---- files and pages ----


def test_save_and_load(tmp_path, small):
    tokenizer = train_tokenizer(LINES * 3, 320)
    path = save_tokenizer(tokenizer, tmp_path / "new" / "tokenizer.json", note="test")
    first = path.read_bytes()
    assert save_tokenizer(load_tokenizer(path.parent), path, note="test").read_bytes() == first
    assert load_tokenizer(path).merges == tokenizer.merges and [
        p.name for p in path.parent.iterdir()
    ] == ["tokenizer.json"]
    assert Tokenizer.from_pretrained(path).vocab_size == tokenizer.vocab_size
    with pytest.raises(ValueError, match="not a ReleasedTokenizer"):
        ReleasedTokenizer.from_pretrained(path)


def test_the_released_file_is_saved_as_it_came(tmp_path, released, released_file):
    path = save_tokenizer(released, tmp_path / "tokenizer.json")
    assert path.read_text() == released_file[0].read_text()
    again = load_tokenizer(tmp_path)
    assert again.prompt("Hello there.", 3) == released.prompt("Hello there.", 3)
    assert save_tokenizer(again, path).read_text() == released_file[0].read_text()


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda c: c.update(format="version 0"), "version 0"),
        (lambda c: c.update(pattern="."), "pattern"),
        (lambda c: c.update(special_tokens=["<X>"]), "special tokens"),
        (lambda c: c["merges"].append("zz top"), "zz top"),
        (lambda c: c["merges"].insert(0, 5), "merge 0"),
        (lambda c: c.pop("format"), "tokenizer"),
    ],
)
def test_damaged_file_is_named(tmp_path, small, change, words):
    path = save_tokenizer(small, tmp_path / "tokenizer.json")
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=words):
        load_tokenizer(path)


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}", '{"added_tokens": [1]}'])
def test_no_tokenizer_at_all(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match="tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_tokenizer(tmp_path / "nowhere")


def test_a_hub_repository_gives_its_tokenizer(tmp_path, small, monkeypatch):
    import huggingface_hub

    save_tokenizer(small, tmp_path / "tokenizer.json")
    asked = {}

    def download(name, **how):
        asked.update(how, name=name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    found = Tokenizer.from_pretrained("owner/name", revision="v2", local_files_only=True)
    assert found.merges == small.merges
    assert asked["name"] == "owner/name" and asked["allow_patterns"] == ["tokenizer.json"]
    assert asked["revision"] == "v2" and asked["local_files_only"] is True


def test_bad_training_and_decoding(small):
    with pytest.raises(ValueError, match="260"):
        train_tokenizer(LINES, 260)
    with pytest.raises(TypeError, match="list"):
        train_tokenizer("one string", 300)
    with pytest.raises(ValueError, match="merges: number 0"):
        Tokenizer([(0, 256)])
    for token in (-1, small.vocab_size):
        with pytest.raises(ValueError, match="does not exist"):
            small.decode([token])
    with pytest.raises(TypeError, match="int"):
        small.encode(5)


def test_half_a_character_decodes_to_a_replacement(small):
    ids = Tokenizer([]).encode("é")
    assert len(ids) == 2 and small.decode(ids[:1]) == "\ufffd"
