"""Seven talkers that are ill, and a healthy one: trained, recorded and examined.

    python benchmarks/debugging.py [--steps 400] [--work out/debugging]

The patient is the talker of nbs/0_start/00_first_talker.ipynb with two parts of the large model:
rotary positions and guidance (ADDED). Each illness (PATIENTS) changes one or two lines of it. All
are trained with the same seed on the same micro data; two of them have the weights of the healthy
one, because their lines are not read in training. The healthy one is trained with three seeds, to
show how much the seed alone changes. Every talker then goes through the same examination.
Notebook 4.5 (nbs/4_training/05_debugging.ipynb) shows the results.

Writes data/results/debugging.json (numbers) and data/debugging/NAME.npz (what each of them says:
spectrogram and jaw). Finished trainings stay in the work folder and are not done again as long as
their code is the same. About ten minutes on one idle core.
"""

import argparse
import contextlib
import hashlib
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import torch
from first_page import NOTEBOOK, Edits, code_of_the_page, defined
from safetensors.torch import load_file, save_file
from torch import Tensor

from talker_t2av.common.media import atomic_path, code_facts, data_dir, write_result
from talker_t2av.evaluation.audio import dtw_totals

TRAINING = "optimizer.step()\n    schedule.step()"  # only the cell that trains the talker has this

ADDED: Edits = [  # to the first talker: rotary positions, and guidance
    (
        "from torch import Tensor, nn\n",
        """\
from torch import Tensor, nn

from talker_t2av.model.layers import apply_rope, rope_table

LAYOUT = "interleaved"  # which two channels of a query or key form a pair
""",
    ),
    (
        'mouth = torch.from_numpy(store["jaw"] / 255).float()[:, None]  #',
        'mouth = torch.from_numpy(store["jaw"]).float()[:, None]  # as in the file: 255 is open.',
    ),
    (
        "        query, key, value = split.permute(2, 0, 3, 1, 4)\n",
        """\
        query, key, value = split.permute(2, 0, 3, 1, 4)
        table = rope_table(x.shape[1], query.shape[-1])  # (L, width / heads / 2, 2)
        query, key = apply_rope(query, table, LAYOUT), apply_rope(key, table, LAYOUT)
""",
    ),
    ("        self.place = nn.Parameter(0.02 * torch.randn(LONGEST + 40, width))\n", ""),
    ("        row = row + self.place[: row.shape[1]]\n", ""),
    (
        "    losses = talker.losses(*make_batch())\n",
        """\
    letters, *others = make_batch()
    letters[torch.rand(len(letters)) < 0.1] = 0  # one sentence out of ten without its text
    losses = talker.losses(letters, *others)
""",
    ),
    (
        "    def sample(self, condition: Tensor, steps: int = 10, ",
        """\
    # blank: the condition of the same row without its text
    def sample(self, condition: Tensor, blank: Tensor, scale: float, steps: int = 10, """,
    ),
    (
        "            x = x + self(x, time, condition) / steps\n        return x",
        """\
            with_text, without = self(x, time, condition), self(x, time, blank)
            x = x + (without + scale * (with_text - without)) / steps
        return x""",
    ),
    (
        "def say(text, given_sound=None, given_mouth=None, temperature=0.7, most=24):\n",
        "def say(text, given_sound=None, given_mouth=None, temperature=0.7, most=24, scale=1.5):\n",
    ),
    (
        "        hidden = talker.hidden(letters, sounds, jaws)[:, -1]\n",
        """\
        hidden = talker.hidden(letters, sounds, jaws)[:, -1]
        blank = talker.hidden(torch.zeros_like(letters), sounds, jaws)[:, -1]
""",
    ),
    (
        "        sound = talker.sound_head.sample(hidden, temperature=temperature)\n",
        "        sound = talker.sound_head.sample(hidden, blank, scale, temperature=temperature)\n",
    ),
    (
        "        jaw = talker.mouth_head.sample(hidden, temperature=temperature)\n",
        "        jaw = talker.mouth_head.sample(hidden, blank, scale, temperature=temperature)\n",
    ),
]


@dataclass(frozen=True)
class Illness:
    """What is wrong with a patient."""

    name: str
    edits: Edits  # (right lines, wrong lines)
    trained: bool = True  # with the wrong lines; else only run with them


PATIENTS = {
    "A": Illness(
        "noise and data swapped",
        [
            (
                "        return F.mse_loss(direction, patch - noise)",
                "        return F.mse_loss(direction, noise - patch)",
            )
        ],
    ),
    "B": Illness(
        "rotary pairing swapped",
        [('LAYOUT = "interleaved"  #', 'LAYOUT = "rotate_half"  #')],
        trained=False,
    ),
    "C": Illness(
        "mouth not normalised",
        [("JAW_SCALE = mouth.std()  #", "JAW_SCALE = torch.tensor(1.0)  #")],
    ),
    "D": Illness(
        "stop labels inverted",
        [
            (
                "        is_last = (place == count[:, None]).float()\n",
                "        is_last = (place != count[:, None]).float()\n",
            )
        ],
    ),
    "E": Illness(
        "guidance with its branches swapped",
        [
            (
                "            x = x + (without + scale * (with_text - without)) / steps\n",
                "            x = x + (with_text + scale * (without - with_text)) / steps\n",
            )
        ],
        trained=False,
    ),
    "F": Illness(
        "targets shifted by one patch",
        [("told = hidden[:, :-1][predicts]  #", "told = hidden[:, 1:][predicts]  #")],
    ),
    "G": Illness(
        "padding in the loss",
        [
            (
                "        predicts = (place < count[:, None])[:, :-1]  #",
                "        predicts = (place < sounds.shape[1]).expand(len(count), -1)[:, :-1]  #",
            )
        ],
    ),
}
HEALTHY = "healthy"
EXTRA = {  # for an exercise: one would expect it to be ill
    "clock": Illness(
        "noise and data swapped in the mixture",
        [
            (
                "self((1 - time) * noise + time * patch, time, condition)",
                "self(time * noise + (1 - time) * patch, time, condition)",
            )
        ],
    ),
}
SICK = PATIENTS | EXTRA

SEEDS = 3  # trainings of the healthy talker
SAID = ("three one four", "nine two seven")
REPEATS = 2  # of each digit, for the listener
BINS = 5  # of the time of flow matching
CURVE = 20  # training steps in one point of a curve
FIT_STEPS, FIT_SIZE = 200, 4  # of a training on one sentence, and copies of it in a batch
ONE_SENTENCE: Edits = [  # for that training
    ("letters, *others = make_batch()\n", f"letters, *others = make_batch({FIT_SIZE})\n"),
    ("optimizer, 2e-3, STEPS", "optimizer, 4e-3, STEPS"),
]
GUIDED = 1.5  # what `say` takes when it is not told


def edits_of(name: str, extra: Edits = ()) -> Edits:
    """All that is changed on the page for a patient, or for the healthy talker."""
    return [*ADDED, *(SICK[name].edits if name != HEALTHY else []), *extra]


def built(name: str = HEALTHY, seed: int = 0, extra: Edits = ()) -> dict:  # the page's names
    """The page of a patient, or of the healthy talker: all that trains and speaks, untrained.

    `extra` are further lines to be changed, after those of the patient.
    """
    edits = edits_of(name, extra)
    with contextlib.redirect_stdout(io.StringIO()):
        return defined(seed, training=False, edits=edits)


def training_code(name: str = HEALTHY, extra: Edits = ()) -> str:
    """The cell of a page that trains its talker."""
    return next(source for source in code_of_the_page(edits_of(name, extra)) if TRAINING in source)


def train(page: dict, steps: int, code: str | None = None) -> list[list[float]]:
    """Run the cell that trains, with so many steps: losses (sound, mouth, stop) of each step."""
    code = re.sub(r"^STEPS = \d+", f"STEPS = {steps}", code or training_code(), flags=re.MULTILINE)
    exec(compile(code, NOTEBOOK.name, "exec"), page)
    return page["history"]


def weights_of(name: str, seed: int, steps: int, work: Path) -> tuple[dict, list]:
    """Train, or read what an earlier run of the same code trained: weights, losses of each step."""
    trained = trained_as(name)
    page_code = "\n".join(
        [*code_of_the_page(edits_of(trained)), str((seed, steps, torch.__version__))]
    )
    key = hashlib.sha256(page_code.encode()).hexdigest()[:16]
    stem = work / f"{trained.replace(' ', '_')}_{seed}_{key}"
    weights, curve = stem.with_suffix(".safetensors"), stem.with_suffix(".json")
    if not curve.is_file():
        page = built(trained, seed)
        history = train(page, steps)
        with atomic_path(weights) as temporary:
            save_file(page["talker"].state_dict(), temporary)
        with atomic_path(curve) as temporary:  # last: where it is, the weights are, too
            temporary.write_text(json.dumps(history))
    return load_file(weights), json.loads(curve.read_text())


# --- the examination: each function asks one question of a page and its trained talker


def fixed_batch(page: dict, size: int = 64) -> list[Tensor]:
    """Letters, sounds, jaws and counts of sentences that are the same for all talkers."""
    page["rng"] = np.random.default_rng(99)
    return list(page["make_batch"](size))


def one_sentence(page: dict, text: str, take: int = 0) -> tuple[Tensor, Tensor]:
    """The patches of a text, said with the recordings number `take`: (n, 4, 32), (n, 4, 1)."""
    order = [page["WORDS"].index(word) for word in text.split()]
    takes = [np.flatnonzero(page["digit_of"] == digit)[take] for digit in order]
    size = page["PATCH"]
    places = [slice(page["starts"][k] // size, page["ends"][k] // size) for k in takes]
    sound = torch.cat([page["patches"][place] for place in places])
    return sound, torch.cat([page["mouth_patches"][place] for place in places])


def batch_of(page: dict, text: str, size: int = 1) -> list[Tensor]:
    """A batch of copies of one sentence, through the page's own code."""
    with_one = dict(make_sentence=lambda: (text, *one_sentence(page, text)))
    before = {name: page[name] for name in with_one}
    page.update(with_one)
    try:
        return list(page["make_batch"](size))
    finally:
        page.update(before)


@torch.no_grad()
def losses(page: dict, batch: list[Tensor]) -> dict[str, float]:
    """The three losses, always with the same noise."""
    torch.manual_seed(5)
    return {name: loss.item() for name, loss in page["talker"].losses(*batch).items()}


@torch.no_grad()
def what_goes_in(page: dict, batch: list[Tensor]) -> dict[str, Tensor]:
    """What the sound head is handed while losses are computed.

    patch and told are what is to be drawn and the vector for it, a row for each patch; x, time and
    clean are what the head's network sees, and the patch that is hidden in it.
    """
    head, seen = page["talker"].sound_head, {}
    plain_loss = head.loss

    def loss(patch: Tensor, condition: Tensor, draws: int = 2) -> Tensor:
        seen.update(patch=patch, told=condition, clean=patch.repeat(draws, 1))
        return plain_loss(patch, condition, draws)

    hook = head.register_forward_pre_hook(
        lambda _, inputs: seen.update(x=inputs[0], time=inputs[1])
    )
    head.loss = loss
    try:
        losses(page, batch)
    finally:
        hook.remove()
        del head.loss
    return seen


def numbers_that_enter(page: dict, batch: list[Tensor]) -> dict:
    """Size of the numbers that the heads must draw, over real patches."""
    _, sounds, jaws, count = batch
    real = torch.arange(sounds.shape[1]) < count[:, None]
    return {"sound": sounds[real].std().item(), "mouth": jaws[real].std().item()}


def answer_leaks(page: dict, batch: list[Tensor]) -> list[list[float]]:
    """How much the vector for patch k changes (row k) when patch j is changed (column j)."""
    plain, columns = what_goes_in(page, batch)["told"], []
    for patch in range(batch[1].shape[1]):
        changed = [part.clone() for part in batch]
        changed[1][:, patch] += 1
        columns.append((what_goes_in(page, changed)["told"] - plain).abs().amax(-1))
    return torch.stack(columns, -1).tolist()


def with_padding(batch: list[Tensor], patches: int = 10) -> list[Tensor]:
    """The same batch with more padding, which holds other numbers."""
    letters, *streams, count = batch
    longer = [
        torch.cat([part, part.new_full((len(part), patches, *part.shape[2:]), 9.0)], dim=1)
        for part in streams
    ]
    return [letters, *longer, count]


def clean_share(seen: dict[str, Tensor]) -> list[float]:
    """Correlation of what the network sees with the clean patch, by time, from 0 to 1."""
    bins = (seen["time"][:, 0] * BINS).long().clamp(max=BINS - 1)
    pairs = [
        torch.stack([seen["x"][bins == k].flatten(), seen["clean"][bins == k].flatten()])
        for k in range(BINS)
    ]
    return [torch.corrcoef(pair)[0, 1].item() for pair in pairs]


@torch.no_grad()
def one_step(page: dict, seen: dict[str, Tensor], time: float = 0.5) -> float:
    """A real patch, half of it noise, and one step to the end: error after over error before."""
    torch.manual_seed(6)
    patch = seen["patch"]
    x = (1 - time) * torch.randn_like(patch) + time * patch
    clock = torch.full((len(x), 1), time)
    end = x + (1 - time) * page["talker"].sound_head(x, clock, seen["told"])
    return ((end - patch).square().mean() / (x - patch).square().mean()).item()


@torch.no_grad()
def stop_curve(page: dict, batch: list[Tensor]) -> list[float]:
    """What the stop predictor says before each patch of a real sentence, and after the last."""
    return page["talker"].stop(page["talker"].hidden(*batch[:3]))[0, :, 0].sigmoid().tolist()


@torch.no_grad()
def attention_to_letters(page: dict, batch: list[Tensor]) -> Tensor:
    """(layers, heads, n, letters): how much the place before each patch reads of each letter."""
    plain, maps = page["F"], []

    def written_out(query, key, value, is_causal):
        scores = query @ key.mT * query.shape[-1] ** -0.5
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        maps.append(scores.masked_fill(mask, -torch.inf).softmax(-1))
        return maps[-1] @ value

    page["F"] = SimpleNamespace(scaled_dot_product_attention=written_out)
    try:
        page["talker"].hidden(*batch[:3])
    finally:
        page["F"] = plain
    letters = page["LONGEST"]
    return torch.stack(maps)[:, 0, :, letters:-1, :letters]


# --- what it says


def distance(ours: np.ndarray, other: np.ndarray) -> float:  # (N, 32), (M, 32)
    """Mean distance along the cheapest path that brings both into step."""
    cost = np.sqrt(np.square(ours[:, None] - other[None]).sum(-1))
    return dtw_totals(cost)[-1, -1] / (len(ours) + len(other))


class Listener:
    """Knows the 120 recordings, and says which digit sounds most like the nearest of them."""

    def __init__(self, page: dict):  # a healthy one: its codec is used for all
        self.encode = page["encode"]
        latents = page["latents"].numpy()
        self.takes = [latents[a:b] for a, b in zip(page["starts"], page["ends"], strict=True)]
        self.digit_of = page["digit_of"]

    def hear(self, latents: np.ndarray, without: int | None = None) -> tuple[int, float]:
        """The digit, and how far away the nearest recording is."""
        far = [distance(latents, take) for take in self.takes]
        if without is not None:
            far[without] = np.inf
        nearest = int(np.argmin(far))
        return int(self.digit_of[nearest]), far[nearest]

    def examine(self, page: dict, scale: float, repeats: int) -> dict:
        """Every digit alone, some times: share heard right, distance, length, what was heard."""
        torch.manual_seed(7)
        heard = []
        for _ in range(repeats):
            for word in page["WORDS"]:
                rows = page["decode"](page["say"](word, scale=scale)[0])
                heard.append((*self.hear(self.encode(rows).numpy()), len(rows) / 100))
        digits, far, seconds = zip(*heard, strict=True)
        right = [digit == k % 10 for k, digit in enumerate(digits)]
        return {
            "right": float(np.mean(right)),
            "heard": list(digits),
            "distance": float(np.mean(far)),
            "seconds": float(np.mean(seconds)),
        }


def shake(jaw: Tensor) -> float:  # (N, 1)
    """How much the jaw turns round from frame to frame, over how much it moves at all."""
    track = jaw[:, 0]
    return (track.diff(n=2).square().mean() / track.var()).item()


def standstill(rows: Tensor) -> float:  # (4 N, 64)
    """Change of the spectrogram from patch to patch over its variance: 0 is a drone."""
    parts = rows.unflatten(0, (-1, 16))
    return (parts.diff(dim=0).square().mean() / rows.var()).item()


def trained_as(name: str) -> str:
    """Whose training a talker has: its own, or that of the healthy one."""
    return name if name != HEALTHY and SICK[name].trained else HEALTHY


def fit_one_sentence(name: str, text: str = SAID[0], steps: int = FIT_STEPS) -> dict:
    """Train on copies of a single sentence: the trained page."""
    page = built(name)
    page["make_sentence"] = lambda: (text, *one_sentence(page, text))
    with contextlib.redirect_stdout(io.StringIO()):
        train(page, steps, training_code(name, ONE_SENTENCE))
    return page


def says_that_sentence(name: str, weights: dict, listener: Listener, text: str = SAID[0]) -> dict:
    """How far from the only sentence that it knows is what a talker says?"""
    page = built(name)
    page["talker"].load_state_dict(weights)
    torch.manual_seed(8)
    spoken, _ = page["say"](text)
    truth = one_sentence(page, text)[0].flatten(0, 1)
    ours, real = (listener.encode(page["decode"](part)).numpy() for part in (spoken, truth))
    return {
        "distance": float(distance(ours, real)),
        "frames": len(ours),
        "true_frames": len(real),
    }


def examined(
    name: str, weights: dict, history: list, fitted: dict, listener: Listener
) -> tuple[dict, dict]:
    """Numbers for the JSON file, arrays for the sounds and pictures.

    `fitted` are the weights after the training on one sentence.
    """
    page, right = built(name), built()
    for each in (page, right):
        each["talker"].load_state_dict(weights)
    batch = fixed_batch(page)
    sentence = batch_of(page, SAID[0])
    seen = what_goes_in(page, batch)
    wrong_text = [batch[0].roll(1, 0), *batch[1:]]
    curve = np.array(history)
    numbers = {
        "illness": SICK[name].name if name != HEALTHY else None,
        "curve": curve.reshape(-1, CURVE, 3).mean(1).round(4).tolist(),
        "first": curve[0].tolist(),
        "last": curve[-50:].mean(0).tolist(),
        "running": losses(page, batch),
        "right_code": losses(right, fixed_batch(right)),
        "wrong_text": losses(page, wrong_text),
        "padded": losses(page, with_padding(batch)),
        "rows": len(seen["told"]) / int(batch[-1].sum()),
        "enters": numbers_that_enter(page, batch),
        "leak": np.round(answer_leaks(page, sentence), 3).tolist(),
        "clean_share": clean_share(seen),
        "one_step": one_step(page, seen),
        "stop": stop_curve(page, sentence),
        "digits": listener.examine(page, GUIDED, REPEATS),
        "scales": {str(scale): listener.examine(page, scale, 1)["right"] for scale in (0, 1)},
        "fit": says_that_sentence(name, fitted, listener),
    }
    arrays = {"attention": attention_to_letters(page, sentence)}
    said = []
    torch.manual_seed(1)
    for k, text in enumerate(SAID):
        spoken, jaw = page["say"](text)
        rows = page["decode"](spoken)
        arrays |= {f"rows_{k}": rows, f"jaw_{k}": jaw}
        said.append(
            {"text": text, "frames": len(jaw), "shake": shake(jaw), "standstill": standstill(rows)}
        )
    return numbers | {"said": said}, {
        key: a.numpy().astype(np.float16) for key, a in arrays.items()
    }


def recordings(page: dict, listener: Listener) -> dict:
    """The same numbers of the real recordings, where they have any."""
    heard = [listener.hear(take, without=k) for k, take in enumerate(listener.takes)]
    right = [digit == page["digit_of"][k] for k, (digit, _) in enumerate(heard)]
    rows = []
    for text in SAID:
        sound, jaw = (part.flatten(0, 1) for part in one_sentence(page, text))
        rows.append(
            {
                "text": text,
                "frames": len(jaw),
                "shake": shake(jaw),
                "standstill": standstill(page["decode"](sound)),
            }
        )
    return {
        "right": float(np.mean(right)),
        "distance": float(np.mean([far for _, far in heard])),
        "said": rows,
    }


def guesses(page: dict) -> dict[str, float]:
    """The losses of a talker that always answers the mean (sound, mouth) or the share (stop)."""
    batch = fixed_batch(page, 500)
    _, sounds, jaws, count = batch
    real = torch.arange(sounds.shape[1]) < count[:, None]
    share = len(count) / (count.sum().item() + len(count))
    return {
        "sound": 1 + sounds[real].var(0).mean().item(),
        "mouth": 1 + jaws[real].var(0).mean().item(),
        "stop": float(-share * np.log(share) - (1 - share) * np.log(1 - share)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400, help="of each training (default 400)")
    parser.add_argument("--work", default="out/debugging", help="folder of finished trainings")
    parser.add_argument("--results", default=str(data_dir() / "results" / "debugging.json"))
    parser.add_argument("--sounds", default=str(data_dir() / "debugging"))
    args = parser.parse_args()
    if args.steps < 60 or args.steps % CURVE:
        parser.error(f"--steps: takes a multiple of {CURVE} from 60 on, got {args.steps}")
    matplotlib.use("agg")
    torch.set_num_threads(1)
    code, work = code_facts(), Path(args.work)
    work.mkdir(parents=True, exist_ok=True)
    page = built()
    listener = Listener(page)
    values = {
        "steps": args.steps,
        "guess": guesses(page),
        "recordings": recordings(page, listener),
        "seeds": [],
    }
    for seed in range(SEEDS):
        print(f"{HEALTHY}, seed {seed}", flush=True)
        _, history = weights_of(HEALTHY, seed, args.steps, work)
        values["seeds"].append(np.mean(history[-50:], 0).tolist())
    trained, fitted = {}, {}
    for name in (HEALTHY, *SICK):
        print(name, flush=True)
        trained[name] = weights_of(name, 0, args.steps, work)
        if trained_as(name) == name:
            fitted[name] = fit_one_sentence(name)["talker"].state_dict()
    for name, (weights, history) in trained.items():
        one = fitted[trained_as(name)]
        values[name], arrays = examined(name, weights, history, one, listener)
        with atomic_path(Path(args.sounds) / f"{name}.npz") as temporary:
            np.savez_compressed(temporary, **arrays)
        shown = {key: values[name][key] for key in ("last", "running", "digits", "fit")}
        print(name, json.dumps(shown), flush=True)
    command = f"python benchmarks/debugging.py --steps {args.steps}"
    write_result(args.results, values, command, code)


if __name__ == "__main__":
    main()
