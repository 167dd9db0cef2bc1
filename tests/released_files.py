"""Files laid out like the authors' release, with random weights under the released names.

Names, shapes and types come from the manifests of the released model (golden/README.md says how
they were made). At reduced width every list of layers is cut to its first ones and every size is
divided, so that it takes a second; at full width it is the real thing but for the numbers:

    python tests/released_files.py FOLDER      full width: 11 GB of files, 8 GB of memory
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from golden_files import FOLDERS
from safetensors.torch import save_file
from torch import Tensor

Shape = tuple[int, ...]
TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "I64": torch.int64}
PLACES = {  # part -> the file's name
    "talker": "talker/model.safetensors",
    "audio_codec": "whisperx_vae.ckpt",
    "motion_codec": "lia-x.pt",
    "speaker": "wavlm_large_finetune.pth",
}


def manifest(name: str) -> dict:
    folder = next(folder for folder in FOLDERS if (folder / name).is_file())
    return json.loads((folder / name).read_text(encoding="utf-8"))


def entries_of(part: str) -> list[tuple[str, Shape, str]]:  # name, shape, type
    if part in ("talker", "speaker"):
        stored = manifest(f"manifest_{part}.json")[part]["entries"]
        return [(name, tuple(shape), kind) for name, shape, kind, _ in stored]
    stored = manifest(
        {"audio_codec": "whisperx_vae", "motion_codec": "lia_x"}[part] + "_names.json"
    )
    found = []
    for name, shape in stored["tensors"].items():
        repeated = range(stored["layers"]) if "*" in name else [""]
        found += [(name.replace("*", str(i)), tuple(shape), "F32") for i in repeated]
    return found


def beyond(name: str, pattern: str, kept: int) -> bool:
    """Whether a name belongs to a numbered block that is cut off."""
    found = re.search(pattern, name)
    return found is not None and int(found[1]) >= kept


def divided(shape: Shape, sizes: dict[int, int], axes: int = 2) -> Shape:
    """The first axes with other sizes; those behind are kernels."""
    return tuple(sizes.get(size, size) if i < axes else size for i, size in enumerate(shape))


def smaller_talker(name: str, shape: Shape) -> Shape | None:  # None: is cut off
    if beyond(name, r"\.(?:layers|blocks)\.(\d+)\.", 2):
        return None
    if name.endswith("rope.w"):
        return shape[0], shape[1] // 16, 2
    sizes = {1024: 64, 2048: 128, 3072: 192, 2730: 170, 128: 8, 151936: VOCABULARY}
    return divided(shape, sizes, 4)


def smaller_audio(name: str, shape: Shape) -> Shape | None:
    if beyond(name, r"semantic_model\.encoder\.blocks\.(\d+)\.", 1):
        return None
    sizes = {1280: 64, 5120: 256}
    if name.startswith("CodecEnc"):
        sizes |= {48 * 2**i: 4 * 2**i for i in range(5)}
    if name.startswith("CodecDec"):
        sizes |= {96 * 2**i: 4 * 2**i for i in range(5)}
    return divided(shape, sizes)


def smaller_motion(name: str, shape: Shape) -> Shape | None:
    """Three levels of seven: pictures of 32 x 32 pixels."""
    level = re.match(r"dec\.(?:conv|rgb|flow)(\d)", name) or re.match(
        r"enc\.enc_2r\.block(\d)", name
    )
    keep = name.startswith(("dec.conv1.", "enc.enc_2r.block8."))
    if level and int(level[1]) > 3 and not keep:
        return None
    if beyond(name, r"dec\.conv\w+_2(?:_rgb)?\.(\d)\.", 1) and "_up." not in name:
        return None
    return divided(shape, dict.fromkeys((128, 256, 512, 1024), 64), 3)


def smaller_speaker(name: str, shape: Shape) -> Shape | None:
    if name == "feature_weight":
        return (3,)
    if beyond(name, r"encoder\.layers\.(\d+)\.", 2):
        return None
    sizes = {size: size // 16 for size in (64, 512, 1024, 1536, 3072, 4096)}
    if "SE_Connect" in name or "pooling" in name:
        sizes[128] = 8
    return divided(shape, sizes)


SMALLER: dict[str, Callable] = {
    "talker": smaller_talker,
    "audio_codec": smaller_audio,
    "motion_codec": smaller_motion,
    "speaker": smaller_speaker,
}


def random_tensor(name: str, shape: Shape, kind: str, generator: torch.Generator) -> Tensor:
    """Of a size that keeps signals within bounds on their way through the layers."""
    if kind == "I64":
        return torch.zeros(shape, dtype=torch.int64)
    if name.endswith("kernel"):  # of LIA-X's blur
        return torch.full(shape, 1 / 16)
    if name.endswith(("running_var", "scale", "alpha", "weight_g", "norm.weight")):
        return torch.ones(shape, dtype=TYPES[kind])
    fan_in = max(1, torch.Size(shape[1:]).numel())
    value = torch.empty(shape, dtype=TYPES[kind]).normal_(generator=generator)
    return value.mul_(fan_in**-0.5 if len(shape) > 1 else 0.02)


def tensors_of(part: str, full: bool = False, seed: int = 0) -> dict[str, Tensor]:
    """All tensors of one released file."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape, kind in entries_of(part):
        if not full:
            shape = SMALLER[part](name, shape)
        if shape is not None:
            found[name] = random_tensor(name, shape, kind, generator)
    return found


VOCABULARY = 320  # of the tokenizer below, and a little more, as in the release


def write_tokenizer(path: Path) -> None:
    """Bytes, and Qwen3's special tokens, in the form of the tokenizers library."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[])
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    tokenizer.add_special_tokens(names)
    tokenizer.save(str(path))


def checkpoint_of(part: str, tensors: dict[str, Tensor]):
    """What `torch.save` gets: a state dict, a training checkpoint, a dictionary with extras."""
    if part == "audio_codec":
        settings = argparse.Namespace(
            learning_rate=1e-4, codec_encoder=argparse.Namespace(in_dim=48)
        )
        # a discriminator, and the half of Whisper that writes text
        others = ("discriminator.weight", "semantic_model.decoder.ln.weight")
        other = {name: torch.zeros(3) for name in others}
        return {"state_dict": tensors | other, "hyper_parameters": settings, "epoch": 3}
    if part == "speaker":
        return {"model": tensors | {"loss_calculator.projection.weight": torch.zeros(2, 3)}}
    return tensors


def write_release(folder: Path, full: bool = False) -> dict[str, Path]:  # part -> file
    """All files of a release."""
    files = {part: folder / place for part, place in PLACES.items()}
    for part, path in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = tensors_of(part, full)
        if part == "talker":
            save_file(tensors, path, metadata={"format": "pt"})
        else:
            torch.save(checkpoint_of(part, tensors), path)
    write_tokenizer(files["talker"].parent / "tokenizer.json")
    return files


@contextmanager
def one_process() -> Iterator[None]:
    """Checkpoints are read in this process, not in a second one that imports PyTorch first."""
    from talker_t2av.released import checkpoints

    def here(order: dict) -> dict:
        try:
            return checkpoints.read_here(order)
        except Exception as error:
            raise ValueError(f"{order['path']}: {checkpoints.in_one_line(error)}") from None

    with mock.patch.object(checkpoints, "ask_second_process", here):
        yield


if __name__ == "__main__":
    for part, path in write_release(Path(sys.argv[1]), full=True).items():
        print(f"{part:13} {path} {path.stat().st_size / 1e9:.2f} GB")
