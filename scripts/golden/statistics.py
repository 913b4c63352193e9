"""Writes eval/tests/golden/statistics.json: paired tests as scipy and statsmodels compute them.

usage: pip install scipy==1.17.1 statsmodels==0.15.0; statistics.py

The bootstrap's draws are ours (datasets::random), restated here, so that its interval and p-value can be held to
numpy's percentiles of the very same resamples.
"""
import json
import random
from pathlib import Path

import numpy as np
from scipy.stats import binomtest, chi2
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

OUT = Path(__file__).resolve().parents[2] / "eval" / "tests" / "golden" / "statistics.json"
RANDOM = random.Random(20261123)
MASK = (1 << 64) - 1


def mix(value):
    z = (value + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def draws(seed, purpose):
    state = mix(seed)
    for at in range(0, len(purpose), 8):
        state = mix(state ^ int.from_bytes(purpose[at : at + 8], "little"))
    state = mix(state ^ len(purpose))
    return lambda number: mix(state ^ mix(number))


def mcnemar_case(before, after):
    exact = before + after < 25
    result = mcnemar([[3, before], [after, 5]], exact=exact, correction=before != after)
    # The definitions behind it, by scipy alone.
    if exact and before + after > 0:
        check = binomtest(before, before + after, 0.5).pvalue
    elif not exact:
        check = chi2.sf(max(abs(before - after) - 1, 0) ** 2 / (before + after), 1)
    else:
        check = 1.0
    assert abs(check - result.pvalue) < 1e-12, (before, after, check, result.pvalue)
    return {"only_before": before, "only_after": after, "exact": exact,
            "statistic": float(result.statistic), "p": float(result.pvalue)}


def bootstrap_case(items, resamples, seed, lift):
    before = [RANDOM.random() ** 2 for _ in range(items)]
    after = [b + lift * RANDOM.random() - 0.05 for b in before]
    draw = draws(seed, b"bootstrap")
    numbers = [(draw(i) * items) >> 64 for i in range(resamples * items)]
    chosen = np.array(numbers).reshape(resamples, items)
    changes = np.array(after)[chosen].mean(axis=1) - np.array(before)[chosen].mean(axis=1)
    value = float(np.mean(after) - np.mean(before))
    far = int(np.sum(np.abs(changes - value) >= abs(value)))
    low, high = np.quantile(changes, [0.025, 0.975])
    return {"seed": seed, "resamples": resamples, "before": before, "after": after, "value": value,
            "interval": [float(low), float(high)], "p": (1 + far) / (1 + resamples)}


pairs = [(0, 0), (1, 0), (3, 11), (12, 12), (0, 24), (5, 19), (12, 13), (25, 25), (31, 7), (4, 260), (123, 99)]
lists = [[0.04], [0.01, 0.04, 0.03, 0.005], [0.5, 0.5, 0.02], [1.0, 0.001, 0.9, 0.001, 0.2, 0.3, 0.049]]
lists.append([RANDOM.random() ** 3 for _ in range(23)])
golden = {
    "mcnemar": [mcnemar_case(*pair) for pair in pairs],
    "holm": [{"p": p, "adjusted": multipletests(p, method="holm")[1].tolist()} for p in lists],
    "bootstrap": [bootstrap_case(5, 123, 7, 0.3), bootstrap_case(37, 400, 0, 0.1), bootstrap_case(61, 250, 20261123, 0.16)],
}
OUT.write_text(json.dumps(golden, indent=1) + "\n")
