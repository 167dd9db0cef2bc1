"""Which pictures can the shipped motion codec move? Drawn faces, in what happens to pictures on
their way, against photographs, patterns and noise.

    python benchmarks/drawn_faces.py [--faces 200]

writes data/results/drawn_faces.json; notebook 2.16 shows it. Two minutes on one core.
"""

import argparse
import io

import numpy as np
import torch
from matplotlib.cbook import get_sample_data
from PIL import Image
from tqdm.auto import tqdm

from talker_t2av.codecs.motion.codec import MotionCodec
from talker_t2av.codecs.motion.pictures import Square, cut_square, obedience_error
from talker_t2av.common.hub import weight_checksums
from talker_t2av.common.media import data_dir, write_result
from talker_t2av.inference.pipeline import rest_picture
from talker_t2av.world.corpus import compose_clip

SIZE = 128
SOME = 40  # faces to which something is done
PER_PICTURE = 8  # parts that are cut out of a photograph


def jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    memory = io.BytesIO()
    Image.fromarray(picture).save(memory, "jpeg", quality=quality)
    return np.asarray(Image.open(memory).convert("RGB"))


def smaller(picture: np.ndarray, size: int) -> np.ndarray:
    small = Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(small.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def cut(picture: np.ndarray, border: int, right: int = 0, down: int = 0) -> np.ndarray:
    square = Square(border + right, border + down, SIZE - 2 * border)
    return cut_square(Image.fromarray(picture), square, SIZE)


def parts_of(picture: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Squares of 30% to 100% of the shorter side, anywhere."""
    image = Image.fromarray(picture).convert("RGB")
    found = []
    for _ in range(PER_PICTURE):
        side = int(min(image.size) * rng.uniform(0.3, 1))
        left = int(rng.integers(0, image.width - side + 1))
        top = int(rng.integers(0, image.height - side + 1))
        found.append(cut_square(image, Square(left, top, side), SIZE))
    return found


def photographs() -> dict[str, np.ndarray]:
    """Those that come with matplotlib and scikit-image."""
    from skimage import data

    with get_sample_data("grace_hopper.jpg") as file:
        found = {"hopper": np.asarray(Image.open(file).convert("RGB"))}
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        found[name] = getattr(data, name)()
    return found


def patterns(rng: np.random.Generator) -> list[np.ndarray]:
    """Noise, plain colours, soft blobs."""
    found = [rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(4)]
    found += [np.full((SIZE, SIZE, 3), value, np.uint8) for value in (0, 90, 180, 255)]
    for _ in range(12):
        blobs = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        found.append(np.asarray(blobs.resize((SIZE, SIZE), Image.Resampling.BICUBIC)))
    return found


def collections(faces: int) -> dict[str, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    drawn = [rest_picture(face, SIZE) for face in tqdm(range(faces), "drawing")]
    some = drawn[:SOME]
    talking = []
    for face in range(10):
        clip = compose_clip("The quick brown fox jumps over the lazy dog.", "ada", face, face)
        talking += list(clip.frames[5::20])
    return {
        "drawn faces": drawn,
        "frames of talking clips": talking,
        "JPEG, quality 50": [jpeg(picture, 50) for picture in some],
        "JPEG, quality 20": [jpeg(picture, 20) for picture in some],
        "64 pixels": [smaller(picture, 64) for picture in some],
        "cut by 5%": [cut(picture, 6) for picture in some],
        "cut by 6%, shifted by 3%": [cut(picture, 8, 4, -3) for picture in some],
        "photographs": [part for photo in photographs().values() for part in parts_of(photo, rng)],
        "patterns and noise": patterns(rng),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=int, default=200, help="drawn faces (default 200)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    codec = MotionCodec.from_pretrained("small")
    errors = {}
    for name, pictures in collections(args.faces).items():
        errors[name] = [
            round(obedience_error(codec, picture), 3) for picture in tqdm(pictures, name)
        ]
    values = {"errors": errors, "outside": ["photographs", "patterns and noise"]}
    command = f"python benchmarks/drawn_faces.py --faces {args.faces}"
    parents = weight_checksums("small", ["motion_codec"])
    out = data_dir() / "results" / "drawn_faces.json"
    print(write_result(out, values, command, parents=parents))


if __name__ == "__main__":
    main()
