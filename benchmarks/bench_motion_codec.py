"""Speed of the motion codec: pictures a second at 128 x 128 (small preset), and the cost of the
release's way of resampling.
"""

import torch

from talker_t2av.codecs.motion.codec import (
    MotionCodec,
    MotionNetwork,
    frames_per_second,
    motion_config,
)
from talker_t2av.common.measuring import fastest


def run() -> list[dict]:
    torch.manual_seed(0)
    codec = MotionCodec("small").eval()
    frames = torch.randint(0, 256, (1, 25, 128, 128, 3), dtype=torch.uint8)
    motion = codec.encode(frames)[0]
    note = (
        f"128 x 128, untrained weights, uint8 to uint8, 25 frames, {torch.get_num_threads()} "
        "threads, best of 5"
    )
    rows = [
        {
            "name": "motion codec small: encode",
            "value": 25 / fastest(lambda: codec.encode(frames), 5),
            "unit": "frames/s",
            "note": note,
        },
        {
            "name": "motion codec small: render",
            "value": 25 / fastest(lambda: codec.render(frames[0, 0], motion), 5),
            "unit": "frames/s",
            "note": note,
        },
        {
            "name": "motion codec small: parameters",
            "value": sum(p.numel() for p in codec.network.parameters()) / 1e6,
            "unit": "million",
            "note": "",
        },
    ]
    for name, changes in {
        "release's resampling": {"filtered": True},
        "a flow block at every level": {"num_flow_blocks": (1, 1, 1, 1, 1)},
    }.items():
        speed = frames_per_second(
            MotionNetwork(motion_config("small", **changes)).eval(), batch=8, repeats=3
        )
        rows += [
            {
                "name": f"  with {name}: {part}",
                "value": value,
                "unit": "frames/s",
                "note": "network only, batches of 8, best of 3",
            }
            for part, value in speed.items()
        ]
    return rows
