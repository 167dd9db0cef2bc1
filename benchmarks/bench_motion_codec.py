"""Speed of the motion codec: frames a second at 128 x 128 (small preset), and of the released
design at the same sizes.
"""

from dataclasses import asdict

import torch

from talker_t2av.codecs.motion.codec import MotionCodec, ReleasedConfig, ShippedConfig
from talker_t2av.common.measuring import fastest


def run() -> list[dict]:
    torch.manual_seed(0)
    frames = torch.randint(0, 256, (1, 25, 128, 128, 3), dtype=torch.uint8)
    note = (
        f"128 x 128, untrained weights, uint8 to uint8, 25 frames, {torch.get_num_threads()} "
        "threads, best of 5"
    )
    small = ShippedConfig()
    sizes = {name: value for name, value in asdict(small).items() if name != "reader"}
    rows = []
    for name, config in {"small": small, "released design": ReleasedConfig(**sizes)}.items():
        codec = MotionCodec(config).eval()
        motion = codec.encode(frames)[0]
        encode = fastest(lambda codec=codec: codec.encode(frames), 5)
        render = fastest(lambda codec=codec, motion=motion: codec.render(frames[0, 0], motion), 5)
        parameters = sum(p.numel() for p in codec.network.parameters()) / 1e6
        for part, value, unit, how in (
            ("encode", 25 / encode, "frames/s", note),
            ("render", 25 / render, "frames/s", note),
            ("parameters", parameters, "million", ""),
        ):
            rows.append(
                {"name": f"motion codec {name}: {part}", "value": value, "unit": unit, "note": how}
            )
    return rows
