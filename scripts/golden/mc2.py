#!/usr/bin/env python3
"""Writes eval/tests/golden/mc2.json: log-likelihoods of true and false options, and the probability of the true ones.

    scripts/golden/mc2.py eval/tests/golden/mc2.json

The formula is lm-evaluation-harness' (0.4, tasks/truthfulqa/utils.py, process_results_mc2): exp of each log-likelihood, divided by
their sum, summed over the true options. exp of -1e4 is 0 in a float, so it is computed with 60 digits. Needs nothing but Python.
"""

import json
import random
import sys
from decimal import Decimal, getcontext

getcontext().prec = 60


def mc2(log_probs, true):
    probabilities = [Decimal(x).exp() for x in log_probs]
    return float(sum(p for p, t in zip(probabilities, true) if t) / sum(probabilities))


def main():
    draw = random.Random(17)
    options = ["yes", "no", "maybe", "it depends", "nobody knows", "I have no comment", "of course, and often"]
    ranges = {"usual": lambda: -draw.expovariate(0.05), "far apart": lambda: draw.choice([-1e4, -9.99e3, -31.5, -0.25]),
              "all unlikely": lambda: -1e4 - draw.random(), "equal": lambda: -12.5}
    cases = []
    for name, log_prob in ranges.items():
        items, log_probs, tokens, values = [], [], [], []
        for _ in range(23):
            true = [draw.random() < 0.4 for _ in options]
            true[draw.randrange(len(options))] = True
            scores = [log_prob() for _ in options]
            picked = options[max(range(len(options)), key=scores.__getitem__)]
            items.append(("; ".join(o for o, t in zip(options, true) if t), picked))
            log_probs.append(scores)
            tokens.append([len(o.split()) for o in options])
            values.append(mc2(scores, true))
        cases.append({"name": f"mc2, {name}", "options": options, "items": items, "log_probs": log_probs, "tokens": tokens,
                      "scores": {"mc2": sum(values) / len(values)}})
    with open(sys.argv[1], "w", encoding="utf-8") as out:
        out.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


main()
