"""Reference values of elementwise methods, from their papers' formulas: plain NumPy in float64.

Every function takes differences to the base as a list of float64 arrays of one shape. It gives the merged
difference, which the caller adds to the base. Statistics are over the arrays as they are given: over a whole
model when they are all its tensors, one after the other.
"""

from __future__ import annotations

import numpy as np

import reference as ref


def _round(number):
    """To the nearest whole number, halves up."""
    return int(np.floor(number + 0.5))


def _largest_first(values):
    """Places in the order of values as float32, largest first; equals in the order of their places."""
    return np.argsort(-values.astype(np.float32).reshape(-1), kind="stable")


def trimmed(delta, density):
    """The round(density × n) entries of largest magnitude."""
    return np.where(ref.trim_mask(delta, density), delta, 0.0)


def band(delta, density, gamma, *, count=_round):
    """Without the count(γn) largest, the next count(density × n); fewer are left out where too few would remain."""
    if density >= 1.0:
        return delta.copy()
    n = delta.size
    kept = count(density * n)
    above = min(count(gamma * n), n - kept)
    mask = np.zeros(n)
    mask[_largest_first(np.abs(delta))[above : above + kept]] = 1.0
    return delta * mask.reshape(delta.shape)


def matched(part, whole):
    """``part`` scaled to the sum of magnitudes of ``whole``."""
    left = np.sum(np.abs(part))
    return part * (np.sum(np.abs(whole)) / left) if left > 0.0 else part


def combined(parts, weights, *, elects=False, normalize=False, lean=0.0):
    """Σ w x, with an election of those that agree; divided by the weights (of those that agree) on demand."""
    scaled = [w * p for w, p in zip(weights, parts, strict=True)]
    kept = ref.elect(scaled, lean) if elects else scaled
    if not normalize:
        return sum(kept)
    below = sum(w * (p != 0.0) for w, p in zip(weights, kept, strict=True)) if elects else sum(weights)
    return sum(kept) / np.where(below == 0.0, 1.0, below)


def chances(delta, density, epsilon):
    """Probability of keeping: linear in the rank within the last dimension, from density − ε to density + ε."""
    if density in (0.0, 1.0) or delta.ndim == 0 or delta.size == 0 or delta.shape[-1] == 1:
        return np.full(delta.shape, density)
    rows = delta.reshape(-1, delta.shape[-1])
    n = rows.shape[1]
    found = np.empty(rows.shape)
    for row, out in zip(rows, found, strict=True):
        out[_largest_first(np.abs(row))] = density + epsilon - 2.0 * epsilon * np.arange(n) / max(n - 1, 1)
    return found.reshape(delta.shape)


def della_part(delta, density, epsilon, words, *, rescale=True):
    """Entries whose random word is below chance × 2^32, divided by their chance."""
    p = chances(delta, density, epsilon)
    kept = words.astype(np.float64) < p * 2.0**32
    return np.where(kept, delta / np.where(kept & rescale, p, 1.0), 0.0)


def consensus(ds, thresholds, agreement):
    """Σ d where at least ``agreement`` of the models have |d| > t |Σ d − d|."""
    total = sum(ds)
    votes = sum((np.abs(d) > t * np.abs(total - d)).astype(int) for d, t in zip(ds, thresholds, strict=True))
    return np.where(votes >= agreement, total, 0.0)


def tall_mask(ds, task, threshold):
    """[|d_t| > t |Σ d − d_t|], as numbers."""
    return (np.abs(ds[task - 1]) > threshold * np.abs(sum(ds) - ds[task - 1])).astype(np.float64)


def emr(ds):
    """The elected sign times the largest magnitude that has it."""
    sign = np.where(sum(ds) >= 0.0, 1.0, -1.0)
    return sign * np.max([np.where(d * sign > 0.0, np.abs(d), 0.0) for d in ds], axis=0)


def emr_mask(ds, task):
    """[d_t u > 0], as numbers."""
    return (ds[task - 1] * emr(ds) > 0.0).astype(np.float64)


def emr_rescaler(tensors, task, *, means=False):
    """Σ|d_t| / Σ|m_t u| over a list of tensors, each a list of differences; of means where ``means``."""
    over = [max(ds[0].size, 1) if means else 1 for ds in tensors]
    above = sum(np.sum(np.abs(ds[task - 1])) / n for ds, n in zip(tensors, over, strict=True))
    below = sum(np.sum(np.abs(emr_mask(ds, task) * emr(ds))) / n for ds, n in zip(tensors, over, strict=True))
    return above / below if below > 0.0 else 1.0


def magmax(ds):
    """The entry of largest magnitude, the first of equals."""
    place = np.argmax(np.abs(ds), axis=0)
    return np.take_along_axis(np.array(ds), place[None], axis=0)[0]


def ram(ds, epsilon, factors=None):
    """Mean over the models whose change is larger than ε; a change of one model alone times its factor."""
    active = [np.abs(d) > epsilon for d in ds]
    count = sum(a.astype(int) for a in active)
    factors = factors or [1.0] * len(ds)
    parts = [np.where(a, d, 0.0) * np.where(count == 1, f, 1.0) for d, a, f in zip(ds, active, factors, strict=True)]
    return sum(parts) / np.maximum(count, 1)


def ramplus(ds, r, alpha, epsilon):
    """ram with factors 1 + r clip(shared / unique, 0, α)."""
    active = [np.abs(d) > epsilon for d in ds]
    count = sum(a.astype(int) for a in active)
    factors = []
    for a in active:
        shared, alone = np.count_nonzero(a & (count > 1)), np.count_nonzero(a & (count == 1))
        factors.append(1.0 + r * min(shared / max(alone, epsilon), alpha))
    return ram(ds, epsilon, factors)


def nearswap(d, t):
    """The change, limited to a magnitude of t."""
    return np.sign(d) * np.minimum(np.abs(d), t)


def _log_softmax(x):
    shifted = x - np.max(x, axis=-1, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))


def arcee_fusion(x, base, *, floor=0.0):
    """The change where |change| × KL(softmax x ‖ softmax base) ≥ Q2 + 1.5 (Q3 − Q1); quartiles are entries."""
    if x.size == 0:
        return x - base
    rows, under = (np.atleast_1d(a) for a in (x, base))
    log_p, log_q = _log_softmax(rows), _log_softmax(under)
    p, q = np.exp(log_p) + floor, np.exp(log_q) + floor
    ratio = np.log(p / q) if floor else log_p - log_q
    divergence = np.sum(p * ratio, axis=-1, keepdims=True)
    divergence = divergence if floor else np.maximum(divergence, 0.0)
    importance = (np.abs(rows - under) * divergence).astype(np.float32).astype(np.float64)
    ordered = np.sort(importance.reshape(-1))
    first, median, third = (ordered[int(q * (x.size - 1))] for q in (0.25, 0.5, 0.75))
    return np.where(importance >= median + 1.5 * (third - first), rows - under, 0.0).reshape(x.shape)


def sce(ds, share, *, kept_of=None, small=0.0, floor=0.0):
    """Entries of largest variance, weights from energies, minority signs erased."""
    if share < 1.0:
        shifted = np.array([d - ds[0] for d in ds])  # exact where models agree
        spread = np.mean((shifted - np.mean(shifted, axis=0)) ** 2, axis=0)
        varied = int(np.count_nonzero(spread))
        kept = kept_of(varied) if kept_of else max(_round(share * varied), int(varied > 0 and share > 0.0))
        mask = np.zeros(spread.size)
        mask[_largest_first(spread)[:kept]] = 1.0
        ds = [d * mask.reshape(d.shape) for d in ds]
    energies = [np.sum(d * d) / max(d.size, 1) for d in ds]
    total = sum(energies)
    weights = [e / total if total > small else 1.0 / len(ds) for e in energies]
    positive = sum(ds) >= 0.0
    agreeing = [(d > 0.0) & positive | (d < 0.0) & ~positive for d in ds]
    below = sum(w * a for w, a in zip(weights, agreeing, strict=True))
    below = np.maximum(below, floor)
    parts = sum(w * np.where(a, d, 0.0) for w, d, a in zip(weights, ds, agreeing, strict=True))
    return parts / np.where(below == 0.0, 1.0, below)


def pcb(ds, weights, ratio):
    """Parameter competition over arrays that are a whole model: shares are min–max of the best scores."""
    if ds[0].size == 0:
        return ds[0]
    n, count = ds[0].size, len(ds)
    total, limited, shares = sum(ds), [], []
    for d, weight in zip(ds, weights, strict=True):
        size = np.abs(d)
        ordered = np.sort(size.astype(np.float32).astype(np.float64).reshape(-1))
        low = ordered[min(int(n * 1e-4), n - 1)]
        high = max(ordered[max(int(n * (1.0 - 1e-4) - 1.0), 0)], low)
        clamped = np.clip(size, low, high)
        place = (clamped - low) / (high - low) if high > low else np.zeros(d.shape)
        score = (np.exp(count * place**2) * np.tanh(d * total)).astype(np.float32).astype(np.float64)
        cut = np.sort(score.reshape(-1))[min(int((1.0 - ratio) * n), n - 1)]
        top = np.max(score)
        shares.append(weight * (np.maximum(score - cut, 0.0) / (top - cut) if top > cut else np.ones(d.shape)))
        limited.append(np.copysign(clamped, d))
    below = np.maximum(sum(shares), 1e-12)
    return sum(s * x for s, x in zip(shares, limited, strict=True)) / below


def fisher(models, fishers, weights, *, normalize=True, floor=1e-6, norms=None):
    """Σ c F x / Σ c F with c = w / |F|; ``norms`` are those of the whole model."""
    above, below = 0.0, 0.0
    for i, (x, f, w) in enumerate(zip(models, fishers, weights, strict=True)):
        norm = norms[i] if norms is not None else np.sqrt(np.sum(f * f))
        c = w / norm if normalize and norm > 0.0 else w
        above = above + c * np.maximum(f, floor) * x
        below = below + c * np.maximum(f, floor)
    return above / below
