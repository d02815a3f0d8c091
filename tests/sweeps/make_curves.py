"""Write curves_81.json, the recorded table of the tests of stop rules: `python tests/sweeps/make_curves.py`.

81 trials, a grid of 9 learning rates by 9 weight decays, 27 epochs each. After epoch e the value of a trial is
limit (1 - exp(-(e + 1) / pace)) + noise: the limit falls with the distance of both values from the best ones, and
higher learning rates are faster, so that curves cross. Values have four decimals, so that some are equal.
"""

import json
import math
import random
from pathlib import Path

TABLE = Path(__file__).with_name("curves_81.json")
NUM_EPOCHS = 27


def curve(lr_index: int, decay_index: int) -> list[float]:
    """Return the values of one trial by epoch."""
    noise = random.Random(f"{lr_index} {decay_index}")
    limit = 0.6 * math.exp(-(((lr_index - 3.4) / 4) ** 2) - ((decay_index - 5.2) / 6) ** 2)
    pace = 12 / (1 + lr_index / 2)
    values = (limit * (1 - math.exp(-(epoch + 1) / pace)) + noise.gauss(0, 0.012) for epoch in range(NUM_EPOCHS))
    return [round(max(0.0, value), 4) for value in values]


if __name__ == "__main__":
    order = [(lr, decay) for lr in range(9) for decay in range(9)]
    random.Random(81).shuffle(order)  # the order in which the trials start
    rows = ",\n".join(json.dumps(curve(*place)) for place in order)
    TABLE.write_text(f"[\n{rows}\n]\n")
